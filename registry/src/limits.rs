//! Every bound a user may want to move, with its default and the reason for it.

/// Largest manifest by default: the specification asks for at least 4 MiB, and close to 4 MiB of annotations is in use.
pub const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Largest blob by default. Components are some megabytes; this leaves room for model weights.
pub const BLOB_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Most upload sessions at once by default: some hundred clients with several layers each.
pub const UPLOADS_MAX: usize = 4_096;
/// A session nobody has asked for this long is dropped: a day covers a broken line and a resumed push.
pub const UPLOAD_AGE_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// Nothing younger than this is collected, and a promise to a client lasts as long. An hour covers the longest push
/// between its first blob and its manifest.
pub const GARBAGE_AGE_MS: i64 = 60 * 60 * 1000;
/// Bytes that a scrub reads in a second by default: a third of an old hard disk, so that pulls keep the rest. 1 TB takes
/// nine hours.
pub const SCRUB_BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;

/// The bounds of one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest manifest in bytes; a larger one gets 413.
    pub manifest_bytes_max: u64,
    /// Largest blob in bytes; a larger one gets 413 as soon as that is known.
    pub blob_bytes_max: u64,
    /// Most sessions at once; one more gets 429.
    pub uploads_max: usize,
    /// Idle time in milliseconds after which a session is dropped.
    pub upload_age_ms_max: i64,
    /// Age in milliseconds below which nothing is collected, and how long a promise lasts.
    pub garbage_age_ms: i64,
    /// Bytes that a scrub reads in a second, unless whoever asks for one says otherwise.
    pub scrub_bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            manifest_bytes_max: MANIFEST_BYTES_MAX,
            blob_bytes_max: BLOB_BYTES_MAX,
            uploads_max: UPLOADS_MAX,
            upload_age_ms_max: UPLOAD_AGE_MS_MAX,
            garbage_age_ms: GARBAGE_AGE_MS,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
        }
    }
}
