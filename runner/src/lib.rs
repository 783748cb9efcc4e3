//! coracle-runner
