//! Writes a contact sheet of the first 8 x 8 training shapes, magnified, and prints their classes:
//! `cargo run --release -p peft-datasets --example sheet -- shapes.png`.

use std::error::Error;

use image::imageops::{FilterType, replace, resize};
use image::{Rgb, RgbImage};
use peft_core::data::{DatasetConfig, Split};
use peft_datasets::Shapes;

const COLUMNS: u32 = 8;
const ZOOM: u32 = 4;
const GAP: u32 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("expected one argument: the path of the image to write")?;
    let shapes = Shapes::default();
    let data = shapes.open()?;
    let side = shapes.size as u32;
    let tile = side * ZOOM + GAP;
    let mut sheet = RgbImage::from_pixel(COLUMNS * tile, COLUMNS * tile, Rgb([255, 0, 255]));
    for index in 0..COLUMNS * COLUMNS {
        let (row, column) = (index / COLUMNS, index % COLUMNS);
        let sample = data.sample(Split::Train, index as usize)?;
        println!(
            "row {row} column {column}: {}",
            data.classes()[sample.label]
        );
        let picture = RgbImage::from_raw(side, side, sample.image.rgb)
            .ok_or("a sample of another size than its data set")?;
        let picture = resize(&picture, side * ZOOM, side * ZOOM, FilterType::Nearest);
        let (x, y) = (i64::from(column * tile), i64::from(row * tile));
        replace(&mut sheet, &picture, x, y);
    }
    sheet.save(path)?;
    Ok(())
}
