//! Makes cargo rebuild after a new file in `migrations/`: the embedding macro only detects changed ones.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
