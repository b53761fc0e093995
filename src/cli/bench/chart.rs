//! `recado bench chart`: a picture of each curve that a bench has found.

use std::path::PathBuf;

use clap::Args;

use super::{results, svg};
use crate::cli::error::Failure;
use crate::cli::output;

/// Draw the curves of a run as SVG.
#[derive(Debug, Clone, Args)]
pub struct Chart {
    /// What --json wrote: one bench, or a list
    file: PathBuf,
    /// The folder for the pictures, one a curve
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Chart {
    pub fn run(&self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::other(format!("{}: {error}", self.out.display()));
        std::fs::create_dir_all(&self.out).map_err(failed)?;
        let mut drawn = 0;
        for results in results::read(&self.file)? {
            let of = results.revision.as_ref().map_or_else(String::new, |revision| format!(", revision {revision}"));
            let origin = format!("recado bench {}, {}{of}", results.name(), results.measured.format("%Y-%m-%d"));
            for curve in &results.report.curves {
                let path = self.out.join(format!("{}.svg", file_name(&curve.name)));
                std::fs::write(&path, svg::picture(curve, &origin)).map_err(failed)?;
                output::line(&path.display().to_string())?;
                drawn += 1;
            }
        }
        if drawn == 0 {
            return Err(Failure::other(format!("{}: holds no curves; bench growth and bench curves make some", self.file.display())));
        }
        Ok(())
    }
}

/// A name from a file may lead nowhere else.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
