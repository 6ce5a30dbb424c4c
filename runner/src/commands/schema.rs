//! `runner schema`: the JSON Schema (draft 2020-12) of an experiment or of a comparison, for editors.
//!
//! A component is a name, the configuration of one plugin, or `extends` with some fields over it.
//! The definitions of all plugins are hoisted to the root under `<component>.<plugin>.<type>`.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use peft_core::registry::{Plugin, plugins};
use schemars::generate::SchemaSettings;
use schemars::{Schema, schema_for};
use serde_json::{Map, Value, json};

use crate::commands::print;
use crate::compare::config::{Comparison, FILLED};
use crate::config::experiment::Experiment;
use crate::config::head::HeadConfig;
use crate::config::recipe::Recipe;
use crate::config::resolve::{COMPONENTS, Component, known_names};
use crate::exit::Failure;

/// The root's definitions by name.
type Definitions = Map<String, Value>;

/// Print the JSON Schema of experiments or comparisons, for editors.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner schema > experiment.schema.json")]
pub struct SchemaArgs {
    /// The kind of YAML file.
    #[arg(default_value = "experiment")]
    pub of: Document,
}

/// The kinds of YAML files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// A file for `runner train`.
    Experiment,
    /// A file for `runner compare`.
    Comparison,
}

/// Prints the schema.
pub fn schema(args: &SchemaArgs) -> Result<(), Failure> {
    let schema = match args.of {
        Document::Experiment => experiment_schema(),
        Document::Comparison => comparison_schema(),
    };
    print::json(&schema)
}

/// Makes the schema of a comparison. The settings that all trials share are fields of an
/// experiment, and entries may be names alone.
fn comparison_schema() -> Value {
    let experiment = experiment_schema();
    let mut schema = Value::from(schema_for!(Comparison));
    if let Some(definitions) = experiment["$defs"].as_object() {
        let own = schema["$defs"].as_object_mut();
        own.into_iter()
            .for_each(|own| own.extend(definitions.clone()));
    }
    let mut shared = experiment["properties"].clone();
    if let Some(shared) = shared.as_object_mut() {
        // What the comparison itself sets for every trial may not be written there.
        shared.retain(|key, _| !FILLED.contains(&key.as_str()));
    }
    let properties = &mut schema["properties"];
    properties["extends"] = json!({
        "type": "string",
        "description": "A comparison from which the keys that are not given are taken",
    });
    properties["trial"] = json!({
        "type": "object",
        "description": properties["trial"]["description"],
        "properties": shared,
        "additionalProperties": false,
    });
    let name = json!({ "type": "string" });
    for key in ["backbones", "datasets", "methods"] {
        let entry = properties[key]["items"].clone();
        properties[key]["items"] = json!({ "anyOf": [name, entry] });
    }
    let list = properties["datasets"].clone();
    properties["datasets"] = json!({
        "description": list["description"],
        "anyOf": [list, { "type": "object", "additionalProperties": list }],
    });
    // These are filled in if they are not given: the name, labels, and all keys of an extended
    // comparison.
    schema["required"] = json!([]);
    for entry in ["BackboneEntry", "DatasetEntry", "MethodEntry"] {
        schema["$defs"][entry]["required"] = json!(["use"]);
    }
    schema
}

/// Makes the schema of an experiment: that of its type, with all registered plugins in place of the
/// components.
fn experiment_schema() -> Value {
    // Editors show the words of an option only where the option itself is, so they are listed
    // there.
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings
        .into_generator()
        .into_root_schema_for::<Experiment>();
    let mut schema = Value::from(schema);
    let mut definitions = Definitions::new();
    for component in &COMPONENTS {
        let mut own = component_schema(component, &mut definitions);
        if component.key == "method" {
            definitions.insert("method".to_owned(), own);
            let one = json!({ "$ref": "#/$defs/method" });
            let many = json!({ "type": "array", "items": one, "minItems": 1 });
            own = json!({ "anyOf": [one, many] });
        }
        let property = &mut schema["properties"][component.key];
        own["description"] = property["description"].clone();
        *property = own;
    }
    // The name of the file replaces a missing name, and the metric of the data set a missing
    // metric. The type alone does not say so.
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|field| field != "name");
    }
    if let Some(metric) = schema["properties"]["metric"].as_object_mut() {
        metric.remove("default");
    }
    schema["$defs"] = definitions.into();
    schema
}

/// Makes a property with its description.
fn text(name: &str, mut schema: Value, description: &str) -> (String, Value) {
    schema["description"] = description.into();
    (name.to_owned(), schema)
}

/// Makes the schema of a component: a name, a configuration, or an extension of one.
fn component_schema(component: &Component, definitions: &mut Definitions) -> Value {
    let variants: Vec<String> = match component.plugins {
        Some(kind) => plugins(kind)
            .into_iter()
            .map(|plugin| define_plugin(component.key, plugin, definitions))
            .collect(),
        None => {
            let own = match component.key {
                "head" => schema_for!(HeadConfig),
                _ => schema_for!(Recipe),
            };
            let name = component.key.to_owned();
            let schema = hoist(own, &name, definitions);
            definitions.insert(name.clone(), schema);
            vec![name]
        }
    };
    let extension = extension(component, &variants, definitions);
    let name = json!({
        "type": "string",
        "description": format!("A file in configs/{}/, or a plugin", component.room),
        "examples": known_names(component),
    });
    let references: Vec<_> = variants
        .iter()
        .map(|name| json!({ "$ref": format!("#/$defs/{}", pointer(name)) }))
        .collect();
    json!({ "anyOf": [name, { "oneOf": references }, extension] })
}

/// Defines the configuration of a plugin with its `name`, and returns the name of the definition.
fn define_plugin(key: &str, plugin: &Plugin, definitions: &mut Definitions) -> String {
    let name = format!("{key}.{}", plugin.name);
    let mut schema = hoist((plugin.schema)(), &name, definitions);
    if let Value::Object(schema) = &mut schema {
        schema.insert("type".to_owned(), "object".into());
        schema.insert("title".to_owned(), plugin.name.into());
        schema.insert("description".to_owned(), plugin.summary.into());
        if let Some(properties) = entry(schema, "properties", json!({})).as_object_mut() {
            let constant = json!({ "const": plugin.name, "description": plugin.reference });
            properties.insert("name".to_owned(), constant);
        }
        if let Some(required) = entry(schema, "required", json!([])).as_array_mut() {
            required.insert(0, "name".into());
        }
    }
    definitions.insert(name.clone(), schema);
    name
}

fn entry<'a>(map: &'a mut Map<String, Value>, key: &str, default: Value) -> &'a mut Value {
    map.entry(key).or_insert(default)
}

/// Makes the schema of `extends: name` with any field of the component over it. Values may be
/// anything, because what they are merged with is not known here.
fn extension(component: &Component, variants: &[String], definitions: &Definitions) -> Value {
    let mut fields = BTreeMap::new();
    for name in variants {
        collect_fields(&definitions[name], &mut fields);
    }
    let base = format!(
        "A file in configs/{}/ whose fields these override",
        component.room
    );
    fields.extend([text(
        "extends",
        json!({ "type": "string", "examples": known_names(component) }),
        &base,
    )]);
    json!({
        "title": "extends",
        "type": "object",
        "properties": fields,
        "required": ["extends"],
        "additionalProperties": false,
    })
}

/// Collects the fields of a schema and of its alternatives, with any value allowed.
fn collect_fields(schema: &Value, fields: &mut BTreeMap<String, Value>) {
    let properties = schema["properties"].as_object();
    fields.extend(properties.into_iter().flatten().map(|(name, property)| {
        let described = property.get("description");
        let any = described.map_or(json!(true), |d| json!({ "description": d }));
        (name.clone(), any)
    }));
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    alternatives.for_each(|schema| collect_fields(schema, fields));
}

/// Moves the definitions of a schema to the root, each under `<prefix>.<name>`, and returns the
/// rest.
fn hoist(schema: Schema, prefix: &str, definitions: &mut Definitions) -> Value {
    let mut schema = Value::from(schema);
    redirect(&mut schema, &pointer(prefix));
    let Value::Object(map) = &mut schema else {
        return schema;
    };
    map.remove("$schema");
    if let Some(Value::Object(own)) = map.remove("$defs") {
        let renamed = own
            .into_iter()
            .map(|(name, schema)| (format!("{prefix}.{name}"), schema));
        definitions.extend(renamed);
    }
    schema
}

/// Makes every `$ref` point to the definitions at the root.
fn redirect(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if target == "#" {
                            *target = format!("#/$defs/{prefix}");
                        } else if let Some(name) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/$defs/{prefix}.{name}");
                        }
                    }
                    value => redirect(value, prefix),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redirect(item, prefix)),
        _ => {}
    }
}

/// Writes a name as a part of a JSON pointer.
fn pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::find;

    /// Every `$ref` of a schema.
    fn references<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
        match schema {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_plugin_is_there() {
        let schema = experiment_schema();
        let text = serde_json::to_string(&schema).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), schema);
        let mut found = Vec::new();
        references(&schema, &mut found);
        for target in &found {
            let target = target.strip_prefix('#').unwrap();
            assert!(schema.pointer(target).is_some(), "{target}");
        }
        for component in &COMPONENTS {
            for plugin in component.plugins.into_iter().flat_map(plugins) {
                let name = format!("#/$defs/{}.{}", component.key, plugin.name);
                assert!(found.contains(&name.as_str()), "{name}");
            }
        }
        let lora = &schema["$defs"]["method.lora"];
        assert_eq!(lora["properties"]["name"]["const"], "lora");
        assert_eq!(lora["required"][0], "name");
        assert_eq!(lora["additionalProperties"], false);
    }

    #[test]
    fn every_reference_of_a_comparison_leads_somewhere() {
        let schema = comparison_schema();
        let mut found = Vec::new();
        references(&schema, &mut found);
        assert!(found.contains(&"#/$defs/MethodEntry"), "{found:?}");
        for target in found {
            assert!(schema.pointer(&target[1..]).is_some(), "{target}");
        }
        let trial = schema["properties"]["trial"]["properties"]
            .as_object()
            .unwrap();
        assert!(trial.contains_key("recipe") && !trial.contains_key("seed"));
        let known = schema["properties"].as_object().unwrap();
        for name in find::names("compare/") {
            let value = find::find(&name).map_err(|f| f.error).unwrap().value;
            for key in value.as_mapping().unwrap().keys() {
                let key = key.as_str().unwrap();
                assert!(known.contains_key(key), "{name}: {key}");
            }
        }
    }

    #[test]
    fn an_experiments_fields_are_those_of_the_schema() {
        let schema = experiment_schema();
        let known = schema["properties"].as_object().unwrap();
        // These are written only if they are set.
        let set = [
            "adapter=x",
            "cache_type=f16",
            "cache_budget_gib=1",
            "tensorboard=true",
        ];
        let set = set.map(str::to_owned);
        let experiment = crate::config::experiment::Experiment::read("quickstart", &set);
        let experiment = serde_json::to_value(experiment.map_err(|f| f.error).unwrap()).unwrap();
        let fields: Vec<_> = experiment.as_object().unwrap().keys().collect();
        assert!(known.keys().eq(fields.iter().copied()), "{fields:?}");
    }

    #[test]
    fn defaults_are_those_that_hold() {
        let schema = experiment_schema();
        let default = |field: &str| &schema["properties"][field]["default"];
        assert_eq!(*default("seed"), 0);
        assert_eq!(*default("prefix_cache"), "auto");
        assert!(default("metric").is_null(), "it is the data set's");
        let required = ["backbone", "method", "dataset", "recipe"];
        assert_eq!(schema["required"], json!(required));
    }

    #[test]
    fn shipped_experiments_use_known_keys() {
        let schema = experiment_schema();
        let known = schema["properties"].as_object().unwrap();
        let names = find::names("peft/");
        assert!(!names.is_empty());
        for name in names {
            let value = find::find(&name).map_err(|f| f.error).unwrap().value;
            for key in value.as_mapping().unwrap().keys() {
                let key = key.as_str().unwrap();
                assert!(known.contains_key(key), "{name}: {key}");
            }
        }
    }
}
