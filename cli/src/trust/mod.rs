//! Trust in images: keys, signatures, attached documents, and what an image can do.

pub mod args;
mod attach;
mod diff;
mod gather;
mod inspect;
mod key;
mod remote;
mod sign;
mod verify;

pub use attach::attach;
pub use diff::diff;
pub use inspect::inspect;
pub use key::key;
pub use sign::sign;
pub use verify::verify;
