"""What several benchmarks and the training share: servers, artefacts, alternating runs, pages. One file for each."""
