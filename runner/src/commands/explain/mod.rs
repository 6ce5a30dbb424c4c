//! `runner explain RUN IMAGE..`: what a trained model looks at, and what its prompts are.

mod page;
mod paint;

use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;
use peft_core::data::Image;
use peft_core::files::write_atomically;
use peft_core::saliency::{self, Heat};
use peft_datasets::decode;

use self::page::{Figure, Row, html};
use crate::cli::args::{PlaceArgs, TrainedArgs};
use crate::commands::print::row;
use crate::commands::{assemble, on_pool};
use crate::exit::{Failure, config_error};
use crate::model::assembled::Assembled;

/// Show what a trained model looks at, and its prompts, as pictures and a page.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner explain runs/ap/TRIAL photo.jpg other.png --out explained")]
pub struct ExplainArgs {
    #[command(flatten)]
    pub trained: TrainedArgs,
    /// Image files.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// The class that Grad-CAM explains [default: the most likely one of each image].
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,
    /// The folder to write [default: explain in the run's folder].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The page's file.
const PAGE: &str = "explain.html";
/// Blocks in a row of a sheet of attention maps.
const COLUMNS: usize = 6;

/// Paints attention, Grad-CAM and prompts, and writes a page with all of them.
pub fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| args.trained.run.join("explain"));
    on_pool(&args.place, |device| {
        let (_, assembled) = assemble(&args.trained, &device)?;
        let wanted = args.class.as_deref().map(|name| class(&assembled, name));
        let wanted = wanted.transpose()?;
        let images = args.images.iter().map(decode);
        let images: Vec<Image> = images.collect::<Result<_, _>>().map_err(config_error)?;
        fs_err::create_dir_all(&out).map_err(|e| config_error(format_args!("--out: {e}")))?;
        let painter = Painter {
            assembled: &assembled,
            out: &out,
        };
        let (prompts, rows) = painter.prompts(&images)?;
        let mut sections = Vec::new();
        for (place, (path, image)) in args.images.iter().zip(&images).enumerate() {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            // Two files may have one name in different folders.
            let name = match args.images.len() {
                1 => stem.into_owned(),
                _ => format!("{}-{stem}", place + 1),
            };
            sections.push(painter.image(&name, image, wanted)?);
        }
        let title = format!("What {} looks at", args.trained.run.display());
        let page = html(&title, &prompts, &rows, &sections);
        write_atomically(&out.join(PAGE), page.as_bytes())?;
        row("page", out.join(PAGE).display());
        Ok(())
    })
}

/// The index of a class.
fn class(assembled: &Assembled, name: &str) -> Result<usize, Failure> {
    let classes = &assembled.classes;
    let found = classes.iter().position(|class| class == name);
    found.ok_or_else(|| {
        let hint = peft_core::error::alternatives(name, classes.iter().map(String::as_str));
        config_error(format!("--class: unknown class {name:?}{hint}"))
    })
}

/// Paints into a folder.
struct Painter<'a> {
    assembled: &'a Assembled,
    out: &'a Path,
}

impl Painter<'_> {
    /// Writes a picture and says where it is.
    fn save(&self, name: &str, caption: String, picture: &RgbImage) -> Result<Figure, Failure> {
        let path = self.out.join(name).with_extension("png");
        let png = paint::png(picture)?;
        write_atomically(&path, &png)?;
        row("picture", path.display());
        let size = picture.dimensions();
        Ok(Figure { caption, png, size })
    }

    /// The prompts as images, and their strength at each boundary.
    fn prompts(&self, images: &[Image]) -> Result<(Vec<Figure>, Vec<Row>), Failure> {
        let model = &self.assembled.model;
        let seen = self.assembled.seen(images)?;
        let mut figures = Vec::new();
        if let Some((values, size)) = saliency::at_image(model, seen.clone()) {
            let picture = paint::prompt(&values, size);
            figures.push(self.save("prompt", "the prompt on the image".to_owned(), &picture)?);
        }
        let mut rows = Vec::new();
        for strength in saliency::strengths(model, seen) {
            let index = strength.index;
            let place = model.spec().boundary(index as i64)?.to_string();
            // At the image itself the prompt is a picture already.
            if let Some(heat) = strength.positions.as_ref().filter(|_| index > 0) {
                let name = format!("boundary-{index}");
                let caption = format!("norm of the prompt at {place}, by position");
                figures.push(self.save(&name, caption, &paint::heat(heat))?);
            }
            rows.push(Row { place, strength });
        }
        Ok((figures, rows))
    }

    /// The pictures of one image: what the model sees, Grad-CAM and attention.
    fn image(
        &self,
        name: &str,
        image: &Image,
        wanted: Option<usize>,
    ) -> Result<(String, Vec<Figure>), Failure> {
        let Assembled {
            model,
            input,
            classes,
            ..
        } = self.assembled;
        let images = std::slice::from_ref(image);
        let seen = self.assembled.seen(images)?;
        let probabilities = self.assembled.predict(images)?.remove(0);
        let likely =
            (0..classes.len()).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]));
        let class = wanted.or(likely).unwrap_or(0);
        let said = format!("{} {:.1} %", classes[class], 100.0 * probabilities[class]);
        let below = paint::image(&seen.to_vec(), input.size.sides(), input.mean, input.std);
        let mut figures = vec![self.save(
            &format!("{name}-input"),
            "what the model sees".to_owned(),
            &below,
        )?];
        let cam = saliency::grad_cam(model, seen.clone(), &[class]);
        match cam.and_then(|mut maps| maps.pop()) {
            Some(heat) => figures.push(self.save(
                &format!("{name}-gradcam"),
                format!("Grad-CAM for {said}"),
                &paint::over(&heat, &below),
            )?),
            None => {
                let why = match model.taps().are_of_side() {
                    true => "a side network reads more than the last block",
                    false => "the last block's positions lie on no grid",
                };
                eprintln!("{name}: no Grad-CAM, because {why}")
            }
        }
        let attention = saliency::attention(model, seen);
        let maps: Vec<&Heat> = attention
            .iter()
            .filter_map(|(_, maps)| maps.first())
            .collect();
        if let Some(last) = maps.last() {
            let picture = paint::over(last, &below);
            let caption = "attention of the last block".to_owned();
            figures.push(self.save(&format!("{name}-attention"), caption, &picture)?);
            let all: Vec<RgbImage> = maps.iter().map(|heat| paint::over(heat, &below)).collect();
            let small = all.iter().map(|picture| {
                let side = paint::SIDE / 2;
                image::imageops::resize(picture, side, side, image::imageops::FilterType::Triangle)
            });
            let sheet = paint::sheet(&small.collect::<Vec<_>>(), COLUMNS);
            let caption = format!("attention of blocks 1 to {}", maps.len());
            figures.push(self.save(&format!("{name}-attention-blocks"), caption, &sheet)?);
        }
        Ok((format!("{name}: {said}"), figures))
    }
}
