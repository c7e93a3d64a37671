"""Requests from admission to the last reply: preparing, batching, running, answering. No Triton."""
