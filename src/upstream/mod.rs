//! Outward: what a provider is, how it is spoken to, and one session a user with it.

pub mod hosts;
pub mod provider;
pub mod rule;
pub mod secret;
pub mod template;

pub use provider::{Provider, Providers};
pub use secret::Secret;
