//! Low-rank adapters whose matrices may be shared by layers (ShareLoRA, arXiv 2406.10785).
//!
//! A frozen base model defines [`Site`]s. A [`Sharing`] is a pure function from sites to slots; a [`Layout`]
//! is its value for one model; a [`Bank`] owns one small matrix for each slot. The base asks the bank, at each
//! site, for the update of that site's output, so it never contains an adapter. Counting, saving, merging and
//! exporting all walk the same layout.

mod bank;
mod error;
mod init;
mod layout;
mod merge;
mod native;
mod peft;
mod sharing;
mod site;

pub use bank::{Bank, Dropout, Mask, generator};
pub use error::AdapterError;
pub use init::{Init, normal};
pub use layout::{AdapterConfig, Extra, Layout, Matrix, Scaling, Slot};
pub use merge::{delta, merge, unmerge};
pub use native::{Module, load_native, save_native};
pub use peft::{PeftInfo, export_peft, import_peft};
pub use sharing::{Method, NAMED_METHODS, Scope, Share, Sharing};
pub use site::{Part, Site, select_sites};
