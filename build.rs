//! Bundles the API documents, and makes cargo rebuild after a new file in `migrations/`.

use std::path::{Path, PathBuf};

#[path = "api/bundle.rs"]
mod bundle;

#[expect(clippy::disallowed_methods, reason = "cargo gives a build script its folder in the environment")]
fn main() -> Result<(), String> {
    // The embedding macro only detects changed files.
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=api");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    for name in ["openapi", "asyncapi"] {
        let document = bundle::bundle(&Path::new("api").join(name)).map_err(|error| format!("api/{name}: {error}"))?;
        std::fs::write(out.join(format!("{name}.json")), format!("{document:#}\n")).map_err(|error| format!("{name}.json: {error}"))?;
    }
    Ok(())
}
