//! Scripts: a cluster in words, for golden files. Filled in below.
