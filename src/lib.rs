//! ibvwatch: knows the moment a Yoti in-branch verification session changes.
//!
//! In reading order: what a session is and what an answer means for it (`domain`), where the
//! ids come from (`directory`), how the API is asked (`yoti`), where things are kept (`store`),
//! the loop that joins them (`poller`), and where events go (`sinks`).

pub mod clock;
pub mod directory;
pub mod domain;
pub mod sim;
pub mod store;
pub mod yoti;
