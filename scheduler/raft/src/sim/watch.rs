//! A watch channel that wakes its receivers in the order in which they began to wait. tokio's wakes them in an order drawn
//! from a generator that only `--cfg tokio_unstable` lets a test seed. It stands in for both: openraft's channel (the
//! traits) and, in tests of this crate, tokio's own (the methods of the same names, see `types::watch`).

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft::rt::{OptionalSend, OptionalSync, watch};

/// The channel family.
pub struct SimWatch;

struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    version: u64,
    senders: usize,
    receivers: usize,
    next_id: u64,
    waiting: Vec<(u64, Waker)>,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn notify(&self, changed: bool) {
        let mut state = self.state();
        state.version += u64::from(changed);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(|(_, w)| w.wake());
    }

    fn receiver(self: &Arc<Self>, seen: Option<u64>) -> Receiver<T> {
        let mut state = self.state();
        state.receivers += 1;
        state.next_id += 1;
        let (id, seen) = (state.next_id, seen.unwrap_or(state.version));
        Receiver {
            shared: self.clone(),
            id,
            seen,
        }
    }
}

/// The value, for as long as it is looked at.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> std::ops::Deref for Ref<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// The sending half.
pub struct Sender<T>(Arc<Shared<T>>);

/// A receiving half.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    id: u64,
    seen: u64,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let last = {
            let mut state = self.0.state();
            state.senders -= 1;
            state.senders == 0
        };
        if last {
            self.0.notify(false);
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receiver(Some(self.seen))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.receivers -= 1;
        state.waiting.retain(|(id, _)| *id != self.id);
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

/// As tokio's.
pub fn channel<T>(init: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        value: RwLock::new(init),
        state: Mutex::new(State {
            senders: 1,
            ..State::default()
        }),
    });
    let receiver = shared.receiver(None);
    (Sender(shared), receiver)
}

impl<T> Sender<T> {
    /// As tokio's.
    pub fn send_replace(&self, value: T) -> T {
        let mut held = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *held, value);
        drop(held);
        self.0.notify(true);
        old
    }

    /// As tokio's.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = modify(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner));
        if modified {
            self.0.notify(true);
        }
        modified
    }

    /// As tokio's.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receiver(None)
    }

    /// As tokio's.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.read()
    }
}

impl<T> Receiver<T> {
    /// As tokio's.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// As tokio's.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.state().version;
        self.shared.read()
    }

    /// As tokio's.
    pub async fn changed(&mut self) -> Result<(), watch::RecvError> {
        poll_fn(|cx| {
            let mut state = self.shared.state();
            if state.version != self.seen {
                self.seen = state.version;
                return Poll::Ready(Ok(()));
            }
            if state.senders == 0 {
                return Poll::Ready(Err(watch::RecvError(())));
            }
            match state.waiting.iter_mut().find(|(id, _)| *id == self.id) {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => {
                    let id = self.id;
                    state.waiting.push((id, cx.waker().clone()));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// As tokio's.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, watch::RecvError> {
        loop {
            if wanted(&self.borrow_and_update()) {
                return Ok(self.shared.read());
            }
            self.changed().await?;
        }
    }
}

impl watch::Watch for SimWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        channel(init)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<SimWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        if self.0.state().receivers == 0 {
            return Err(watch::SendError(value));
        }
        *self.0.value.write().unwrap_or_else(PoisonError::into_inner) = value;
        self.0.notify(true);
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        Sender::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Sender::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<SimWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        Receiver::changed(self).await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Receiver::borrow_and_update(self)
    }
}
