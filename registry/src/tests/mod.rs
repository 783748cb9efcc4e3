//! The registry as its clients see it: requests into the router, over every store and both digest algorithms.

mod bad_input;
mod blobs;
mod client;
mod durability;
mod faults;
mod garbage;
mod lists;
mod manifests;
mod matrix;
mod quota;
mod retention;
mod scrub;
mod sessions;
mod skopeo;
mod wire;
