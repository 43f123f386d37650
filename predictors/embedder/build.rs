//! Puts the vocabulary into the predictor as sorted tables: they lie in its memory when an instance
//! starts, and nothing has to be built from them.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

const VOCABULARY: &str = "models/vocabulary.txt";

fn main() -> Result<(), Box<dyn Error>> {
    // Without it the predictor compiles all the same, and its `init` says what to run.
    let file = if Path::new(VOCABULARY).exists() {
        println!("cargo:rerun-if-changed={VOCABULARY}");
        fs::read_to_string(VOCABULARY)?
    } else {
        println!("cargo:rerun-if-changed=.");
        String::new()
    };
    let (mut starts, mut continuations) = (Vec::new(), Vec::new());
    for (id, piece) in file.lines().enumerate() {
        match piece.strip_prefix("##") {
            Some(rest) if !rest.is_empty() => continuations.push((rest, id)),
            _ => starts.push((piece, id)),
        }
    }
    let mut source = String::new();
    for (name, mut table) in [("STARTS", starts), ("CONTINUATIONS", continuations)] {
        table.sort_unstable();
        writeln!(source, "static {name}: &[(&str, u32)] = &{table:?};")?;
    }
    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("vocabulary.rs"),
        source,
    )?;
    Ok(())
}
