//! The atomics of the shared table: std's, or loom's while it is model-checked.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

#[cfg(loom)]
pub(crate) use checked::{AtomicBool, AtomicU32, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::Ordering;
#[cfg(loom)]
pub(crate) use loom::thread::yield_now;

/// Loom tries another order of two accesses only if the later one follows directly on the earlier one
/// among the accesses to the same atomic: a writer that loads before it stores hides all readers from it.
/// So each access is preceded by one to a counter that all threads share. It is relaxed, and orders nothing.
#[cfg(loom)]
#[expect(dead_code, reason = "not every type needs every operation")]
mod checked {
    use loom::sync::atomic::{self, AtomicUsize, Ordering};

    loom::lazy_static! {
        static ref ACCESSES: AtomicUsize = AtomicUsize::new(0);
    }

    fn turn() {
        ACCESSES.fetch_add(1, Ordering::Relaxed);
    }

    macro_rules! checked {
        ($name:ident $value:ty) => {
            pub(crate) struct $name(atomic::$name);

            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    turn();
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    turn();
                    self.0.store(value, order);
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    turn();
                    self.0.compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    checked!(AtomicBool bool);
    checked!(AtomicU32 u32);
    checked!(AtomicU64 u64);

    impl AtomicU32 {
        pub(crate) fn fetch_add(&self, change: u32, order: Ordering) -> u32 {
            turn();
            self.0.fetch_add(change, order)
        }

        pub(crate) fn fetch_sub(&self, change: u32, order: Ordering) -> u32 {
            turn();
            self.0.fetch_sub(change, order)
        }
    }
}
