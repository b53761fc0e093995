//! Implements `recado-bench chart`: draws each curve of a run.

use std::path::PathBuf;

use clap::Args;
use recado::cli::error::CliFailure;
use recado::cli::output;

use super::{results, svg};

/// Draw the curves of a run as SVG.
#[derive(Debug, Clone, Args)]
pub struct Chart {
    /// File written by --json: one bench, or a list
    file: PathBuf,
    /// Folder for the pictures, one for each curve
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Chart {
    pub fn run(&self) -> Result<(), CliFailure> {
        let failed = |error: std::io::Error| CliFailure::other(format!("{}: {error}", self.out.display()));
        std::fs::create_dir_all(&self.out).map_err(failed)?;
        let mut drawn = 0;
        for results in results::read(&self.file)? {
            let of = results.revision.as_ref().map_or_else(String::new, |revision| format!(", revision {revision}"));
            let origin = format!("recado-bench {}, {}{of}", results.name(), results.measured.format("%Y-%m-%d"));
            for curve in &results.report.curves {
                let path = self.out.join(format!("{}.svg", file_name(&curve.name)));
                std::fs::write(&path, svg::picture(curve, &origin)).map_err(failed)?;
                output::line(&path.display().to_string())?;
                drawn += 1;
            }
        }
        if drawn == 0 {
            return Err(CliFailure::other(format!("{}: no curves; use the output of bench growth or bench curves", self.file.display())));
        }
        Ok(())
    }
}

/// Keeps a name from a results file from leaving the folder.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
