//! Pieces of a watch that are made once and sent by every watch that reads the same changes.
//!
//! Watches without selectors over the same objects send the same bytes. Frames are shared already (see
//! [`coracle_state::Event::frame`]), but a burst leaves as one piece, and joining its frames anew for each of thousands
//! of watches is most of what a burst costs. The watch that is first at a burst keeps its piece here for the others;
//! those who come later find it by the revision of the first change they have not looked at.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Pieces kept per table while it is watched, of 64 KiB and a frame each at most; the oldest goes. Watches that are further
/// apart join frames themselves.
const KEPT_MAX: usize = 16;

/// A piece and where it stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Every change up to this revision is in it or does not concern its watches.
    pub until: u64,
    /// The frames.
    pub bytes: Bytes,
}

impl Made {
    /// Where a watch stands after sending it, whose view is at revision `newest` with the newest change of the table at
    /// `changed`: its position, and whether that is all its view holds. The piece may be of a newer view than the watch's
    /// own, so the position is never before the end of the piece.
    pub fn after(&self, changed: u64, newest: u64) -> (u64, bool) {
        match changed <= self.until {
            true => (newest.max(self.until), true),
            false => (self.until, false),
        }
    }
}

#[derive(Debug)]
struct Kept {
    namespace: String,
    first: u64,
    made: Made,
}

/// The newest pieces of one table.
#[derive(Debug, Default)]
pub struct Pieces(Mutex<VecDeque<Kept>>);

impl Pieces {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // The list is whole after every line, so a panicking holder does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The piece for watches of `namespace` (empty: of all) that begins with the change at revision `first`.
    pub fn find(&self, namespace: &str, first: u64) -> Option<Made> {
        let kept = self.lock();
        let found = kept
            .iter()
            .rev()
            .find(|k| k.first == first && k.namespace == namespace)?;
        Some(found.made.clone())
    }

    /// Keeps a piece; a longer one with the same beginning takes the place of a shorter one.
    pub fn keep(&self, namespace: &str, first: u64, made: Made) {
        let mut kept = self.lock();
        let same = kept
            .iter_mut()
            .find(|k| k.first == first && k.namespace == namespace);
        if let Some(same) = same {
            if same.made.until < made.until {
                same.made = made;
            }
            return;
        }
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept {
            namespace: namespace.into(),
            first,
            made,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(until: u64) -> Made {
        Made {
            until,
            bytes: Bytes::from(until.to_string()),
        }
    }

    #[test]
    fn a_piece_moves_a_watch_to_its_own_end_whatever_the_watch_has_seen() {
        // The watch's view has more changes, has the same, is older than the piece.
        assert_eq!(made(7).after(9, 12), (7, false));
        assert_eq!(made(7).after(7, 12), (12, true));
        assert_eq!(made(7).after(6, 6), (7, true));
    }

    #[test]
    fn a_piece_is_found_by_its_beginning_until_newer_ones_push_it_out() {
        let pieces = Pieces::default();
        pieces.keep("a", 5, made(7));
        pieces.keep("b", 5, made(6));
        assert_eq!(pieces.find("a", 5), Some(made(7)));
        assert_eq!(pieces.find("b", 5), Some(made(6)));
        assert_eq!(pieces.find("", 5), None);
        assert_eq!(pieces.find("a", 6), None);
        // The longer of two with one beginning stays.
        pieces.keep("a", 5, made(9));
        pieces.keep("a", 5, made(8));
        assert_eq!(pieces.find("a", 5), Some(made(9)));
        for first in 0..KEPT_MAX as u64 {
            pieces.keep("c", first, made(first));
        }
        assert_eq!(pieces.find("a", 5), None);
        assert_eq!(pieces.find("c", 0), Some(made(0)));
    }
}
