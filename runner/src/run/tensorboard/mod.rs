//! TensorBoard's event files: records of protocol buffers, each with two checksums (TFRecord). Scalars are
//! written while a run trains; its settings, its scores and the confusion matrix follow at its end.

mod proto;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use prost::Message;
use serde_json::Value as Json;

use self::proto::{
    Event, HyperParameters, Image, Kind, Metadata, PluginData, SessionEnd, SessionLog,
    SessionStart, Setting, Summary as Values, Value,
};
use crate::exit::{Exit, Failure, failure};
use crate::run::folder::RunFolder;
use crate::run::summary::Summary;
use crate::train::metrics::Metric;

/// The folder of a run that TensorBoard is pointed at.
const FOLDER: &str = "tensorboard";

/// Least side of the picture of a confusion matrix, in pixels.
const SIDE: usize = 256;

/// An event file that is being written.
pub struct Events {
    file: BufWriter<File>,
}

impl Events {
    /// Makes an event file in the folder of a run that goes on at `step`. TensorBoard drops what earlier
    /// files of the folder hold from that step on.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(run: &Path, step: u64) -> Result<Self, Failure> {
        /// `SessionLog.START`.
        const START: i32 = 1;
        let mut events = Self::open(run)?;
        if step > 0 {
            events.write(Event {
                step: step as i64,
                session_log: Some(SessionLog { status: START }),
                ..Event::default()
            })?;
        }
        Ok(events)
    }

    /// A new file. TensorBoard reads the files of a folder in the order of their names, which begin with the
    /// time.
    fn open(run: &Path) -> Result<Self, Failure> {
        let folder = run.join(FOLDER);
        fs_err::create_dir_all(&folder)?;
        let name = |count| format!("events.out.tfevents.{:010.0}.{count:03}.runner", now());
        let mut free = (0..).map(|count| folder.join(name(count)));
        // A run that resumes within a second finds the file of its first part.
        let path = free.find(|path| !path.exists()).unwrap_or_default();
        let mut events = Self {
            file: BufWriter::new(fs_err::File::create(path)?.into_parts().0),
        };
        events.write(Event {
            file_version: Some("brain.Event:2".to_owned()),
            ..Event::default()
        })?;
        Ok(events)
    }

    /// Adds a value at a step.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<(), Failure> {
        self.value(
            step,
            Value {
                tag: tag.to_owned(),
                simple_value: Some(value as f32),
                ..Value::default()
            },
        )
    }

    /// Writes what is waiting.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.file.flush()?)
    }

    fn value(&mut self, step: u64, value: Value) -> Result<(), Failure> {
        self.write(Event {
            step: step as i64,
            summary: Some(Values { value: vec![value] }),
            ..Event::default()
        })
    }

    /// A value of the plugin that shows tables of hyper-parameters.
    fn settings(&mut self, tag: &str, settings: HyperParameters) -> Result<(), Failure> {
        let plugin_data = PluginData {
            plugin_name: "hparams".to_owned(),
            content: settings.encode_to_vec(),
        };
        self.value(
            0,
            Value {
                tag: format!("_hparams_/{tag}"),
                metadata: Some(Metadata {
                    plugin_data: Some(plugin_data),
                }),
                ..Value::default()
            },
        )
    }

    fn write(&mut self, event: Event) -> Result<(), Failure> {
        let event = Event {
            wall_time: now(),
            ..event
        };
        Ok(self.file.write_all(&record(&event.encode_to_vec()))?)
    }
}

/// Writes the settings of a finished run, its scores, and the confusion matrix of its test split.
///
/// # Errors
/// If the disk cannot be written.
pub fn write_results(folder: &RunFolder, summary: &Summary) -> Result<(), Failure> {
    /// `Status.STATUS_SUCCESS`.
    const SUCCESS: i32 = 1;
    let mut events = Events::open(folder.path())?;
    let mut settings = BTreeMap::new();
    flatten("", &summary.config, &mut settings);
    let start = SessionStart {
        hparams: settings,
        start_time_secs: now() - summary.time.total_seconds,
    };
    let end = SessionEnd {
        status: SUCCESS,
        end_time_secs: now(),
    };
    events.settings(
        "session_start_info",
        HyperParameters {
            start: Some(start),
            ..HyperParameters::default()
        },
    )?;
    let epoch = summary.best_epoch as u64;
    for metric in Metric::ALL {
        if let Some(score) = summary.test.score(metric) {
            let name = serde_json::to_value(metric).unwrap_or_default();
            let tag = format!("test/{}", name.as_str().unwrap_or_default());
            events.scalar(&tag, epoch, score)?;
        }
    }
    events.scalar("test/loss", epoch, summary.test.loss)?;
    if !summary.test.confusion.is_empty() {
        let image = Some(picture(&summary.test.confusion)?);
        let tag = "test/confusion".to_owned();
        events.value(
            epoch,
            Value {
                tag,
                image,
                ..Value::default()
            },
        )?;
    }
    events.settings(
        "session_end_info",
        HyperParameters {
            end: Some(end),
            ..HyperParameters::default()
        },
    )?;
    events.flush()
}

/// The leaves of a configuration by dotted path.
fn flatten(path: &str, value: &Json, settings: &mut BTreeMap<String, Setting>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    };
    let kind = match value {
        Json::Object(map) => {
            return map
                .iter()
                .for_each(|(key, value)| flatten(&below(key), value, settings));
        }
        Json::Array(list)
            if list
                .iter()
                .any(|value| value.is_object() || value.is_array()) =>
        {
            return list
                .iter()
                .enumerate()
                .for_each(|(place, value)| flatten(&below(&place.to_string()), value, settings));
        }
        Json::Array(_) => Kind::Text(value.to_string()),
        Json::Null => return,
        Json::Bool(value) => Kind::Bool(*value),
        Json::Number(value) => Kind::Number(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::Text(value.clone()),
    };
    settings.insert(path.to_owned(), Setting { kind: Some(kind) });
}

/// A confusion matrix as a picture: rows are labels, columns predictions, and a square is the darker the more
/// images of its row it has.
fn picture(confusion: &[Vec<usize>]) -> Result<Image, Failure> {
    let classes = confusion.len();
    let scale = SIDE.div_ceil(classes).max(1);
    let side = classes * scale;
    let mut pixels = Vec::with_capacity(side * side);
    for row in confusion {
        let images = row.iter().sum::<usize>().max(1);
        let shade = |count: &usize| 255 - (255 * count / images) as u8;
        let line: Vec<u8> = row
            .iter()
            .flat_map(|count| std::iter::repeat_n(shade(count), scale))
            .collect();
        for _ in 0..scale {
            pixels.extend(&line);
        }
    }
    let mut encoded = Vec::new();
    PngEncoder::new(&mut encoded)
        .write_image(&pixels, side as u32, side as u32, ExtendedColorType::L8)
        .map_err(|e| failure(Exit::Unexpected, format_args!("the confusion matrix: {e}")))?;
    Ok(Image {
        height: side as i32,
        width: side as i32,
        colorspace: 1,
        encoded,
    })
}

/// A TFRecord: the length and the data, each followed by its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    // The mask keeps checksums of data that contains checksums apart from them.
    let masked = |bytes: &[u8]| {
        crc32c::crc32c(bytes)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
    };
    let length = (data.len() as u64).to_le_bytes();
    [
        &length[..],
        &masked(&length).to_le_bytes(),
        data,
        &masked(data).to_le_bytes(),
    ]
    .concat()
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// TensorFlow's own bytes of a record of three bytes.
    #[test]
    fn records_have_masked_checksums() {
        let bytes = record(b"abc");
        assert_eq!(bytes[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[12..15], b"abc");
        // The checksum of "123456789" by the definition of CRC-32C.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(bytes.len(), 8 + 4 + 3 + 4);
    }

    #[test]
    fn settings_are_leaves_by_path() {
        let mut settings = BTreeMap::new();
        let config = json!({
            "seed": 3, "method": {"name": "lora", "rank": 4, "targets": ["a", "b"]}, "adapter": null,
            "list": [{"name": "bias"}],
        });
        flatten("", &config, &mut settings);
        let names: Vec<&str> = settings.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "list.0.name",
                "method.name",
                "method.rank",
                "method.targets",
                "seed"
            ]
        );
        let targets = settings["method.targets"].kind.clone();
        assert_eq!(targets, Some(Kind::Text(r#"["a","b"]"#.to_owned())));
    }

    #[test]
    fn a_confusion_matrix_is_a_picture() {
        let image = picture(&[vec![3, 1], vec![0, 4]]).unwrap();
        assert_eq!((image.width, image.height), (256, 256));
        let decoded = image::load_from_memory(&image.encoded).unwrap().to_luma8();
        let shades =
            [(0, 0), (255, 0), (0, 255), (255, 255)].map(|(x, y)| decoded.get_pixel(x, y).0[0]);
        assert_eq!(shades, [255 - 191, 255 - 63, 255, 0]);
    }
}
