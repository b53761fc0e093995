//! Runs the program: picks the crypto library, starts the runtime and the command line.

use std::io::Write;

fn main() {
    // Before any use of TLS or signatures: otherwise the first caller's library would choose.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        say("could not install the crypto library: another one is installed already");
        std::process::exit(1);
    }
    // The runtime reads this variable itself, and panics if it is invalid.
    if let Err(problem) = recado::config::check_runtime() {
        say(&problem);
        std::process::exit(78);
    }
    let prepared = match recado::cli::prepare() {
        Ok(prepared) => prepared,
        Err(code) => std::process::exit(code),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("could not start the runtime: {error}"));
            std::process::exit(1);
        }
    };
    let code = runtime.block_on(recado::cli::main(prepared));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    std::process::exit(code);
}

/// Unlike `eprintln!`, does not panic if stderr cannot be written.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "recado: {what}");
}
