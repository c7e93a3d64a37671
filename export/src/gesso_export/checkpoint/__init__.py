"""The checkpoint that is read: diffusers directories, the hub, weights, tokenizers and textual inversions."""
