//! Makes a GGUF file of an embedding model of the BERT kind: `minilm FOLDER FILE`; scripts/minilm.sh calls it.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("write: minilm FOLDER FILE, where FOLDER holds config.json, vocab.txt and model.safetensors".into());
    };
    std::fs::write(file, muster_engine::bert::gguf(Path::new(&folder))?)?;
    Ok(())
}
