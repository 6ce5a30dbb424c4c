//! The macro that makes a plugin of a file format.

/// Registers a format: how its configuration opens, by its `read`, and which paths it names.
///
/// ```text
/// file_format! {
///     Vtab,
///     name: "vtab",
///     paths: [root, names], // `root: PathBuf`, then perhaps a field that is an `Option<PathBuf>`
///     protocol: Transform::SQUASH, // how images are resized; without it, as the backbone expects
///     own_shots: |config| .., // whether the format draws `shots` itself
///     summary: "..", reference: "..", example: "..",
/// }
/// ```
macro_rules! file_format {
    (
        $config:ident,
        name: $name:tt,
        paths: [$root:ident $(, $optional:ident)?],
        $(protocol: $protocol:expr,)?
        $(own_shots: $own_shots:expr,)?
        summary: $summary:expr,
        reference: $reference:expr,
        example: $example:expr,
    ) => {
        #[typetag::serde(name = $name)]
        impl peft_core::data::DatasetConfig for $config {
            fn open(&self) -> peft_core::Result<Box<dyn peft_core::data::Dataset>> {
                Ok(Box::new(self.read()?))
            }

            peft_core::protocol_methods!(
                $(protocol: $protocol,)?
                $(own_shots: $own_shots,)?
            );

            fn paths_mut(&mut self) -> Vec<&mut std::path::PathBuf> {
                std::iter::once(&mut self.$root)$(.chain(&mut self.$optional))?.collect()
            }
        }

        peft_core::register!(
            Dataset,
            $config,
            name: $name,
            summary: $summary,
            reference: $reference,
            example: $example,
        );
    };
}
pub(super) use file_format;
