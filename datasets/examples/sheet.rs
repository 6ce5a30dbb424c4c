//! Writes a contact sheet of the first 8 x 8 training images of a data set, magnified, and prints
//! their classes:
//! `cargo run --release -p peft-datasets --example sheet -- shapes.png '{name: shapes}'`.

use std::error::Error;

use image::imageops::{FilterType, replace, resize};
use image::{Rgb, RgbImage};
use peft_core::data::{DatasetConfig, Split};
use peft_datasets as _;

const COLUMNS: u32 = 8;
/// Side of a picture on the sheet, in pixels.
const SIDE: u32 = 128;
const GAP: u32 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, yaml] = arguments.as_slice() else {
        return Err("expected the path of the image to write and a data set as YAML".into());
    };
    let config: Box<dyn DatasetConfig> = serde_yaml::from_str(yaml)?;
    let data = config.open()?;
    let tile = SIDE + GAP;
    let mut sheet = RgbImage::from_pixel(COLUMNS * tile, COLUMNS * tile, Rgb([255, 0, 255]));
    for index in 0..COLUMNS * COLUMNS {
        let (row, column) = (index / COLUMNS, index % COLUMNS);
        let sample = data.sample(Split::Train, index as usize)?;
        println!(
            "row {row} column {column}: {}",
            data.classes()[sample.label]
        );
        let (width, height) = (sample.image.width as u32, sample.image.height as u32);
        let picture = RgbImage::from_raw(width, height, sample.image.rgb)
            .ok_or("an image of another size than it says")?;
        let picture = resize(&picture, SIDE, SIDE, FilterType::Nearest);
        let (x, y) = (i64::from(column * tile), i64::from(row * tile));
        replace(&mut sheet, &picture, x, y);
    }
    sheet.save(path)?;
    Ok(())
}
