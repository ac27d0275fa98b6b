//! What a run tells its watcher: counters and messages, as a trait.
//!
//! The mirror calls [`Progress`] from many threads, for every object; implementations must be cheap
//! and must not block. What they show, and how often, is theirs: nothing ([`Silent`]), log lines
//! now and then ([`Lines`]), or bars on a terminal ([`Bars`]). [`Counters`] adds the increments up
//! for whoever shows them. Whatever else is written to the terminal while bars are drawn goes
//! through [`Screen`].

mod bars;
mod counters;
mod fetching;
mod lines;
mod watcher;

pub use self::bars::{Bars, Screen};
pub use self::counters::{Counters, Counts};
pub(crate) use self::counters::{bytes, counted, grouped};
pub use self::fetching::Fetching;
pub use self::lines::Lines;
pub use self::watcher::{Progress, Silent};
