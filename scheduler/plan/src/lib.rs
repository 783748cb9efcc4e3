//! coracle-plan
