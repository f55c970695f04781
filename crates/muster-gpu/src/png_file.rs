//! A proof's picture as a file.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PngError {
    /// It could not be made.
    #[error("cannot write {}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It could not be written to its end.
    #[error("cannot write the picture {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: png::EncodingError,
    },
}

/// Writes a square picture of red, green and blue bytes.
///
/// # Errors
/// [`PngError`].
pub fn write_png(path: &Path, side: u32, rgb: &[u8]) -> Result<(), PngError> {
    let file = File::create(path).map_err(|source| PngError::Create { path: path.to_path_buf(), source })?;
    let failed = |source| PngError::Write { path: path.to_path_buf(), source };
    let mut encoder = png::Encoder::new(BufWriter::new(file), side, side);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(rgb).map_err(failed)?;
    writer.finish().map_err(failed)
}
