//! Whole-registry tests.
