//! Holds the rules of the console: whether it is served, and what its routes show.

use std::path::PathBuf;

use crate::identity::TokenMinter;
use crate::wire::console::settings::ShownSetting;

/// The rules of the console of this hub.
pub struct ConsoleRules {
    /// Whether the page is served.
    pub is_served: bool,
    /// Whether a browser that opens `/` is sent to the page.
    pub leads_from_root: bool,
    /// Makes tokens for the playground; `None`: the playground is off.
    pub minter: Option<TokenMinter>,
    /// The folder that the page's files are read from. `None`: the files in this program.
    pub folder: Option<PathBuf>,
    /// Every setting with its value, without secrets.
    pub settings: Vec<ShownSetting>,
}
