//! Bundles the files of an API document into the one document that the hub serves.
//!
//! The root document names every part of the other files, as a path or as a component (a schema, a response …). In the
//! bundle, a part stands where the root names it, and every other `$ref` to it leads there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// The bundle of the files in a folder. The root document has the folder's name: `openapi/openapi.json`.
pub fn bundle(folder: &Path) -> Result<Value, String> {
    let mut files = BTreeMap::new();
    read(folder, "", &mut files)?;
    let root_name = format!("{}.json", folder.file_name().unwrap_or_default().display());
    let mut root = files.remove(&root_name).ok_or_else(|| format!("{} has no {root_name}", folder.display()))?;

    let named = named_parts(&root);
    let places = Places { root: &root_name, of_part: named.iter().map(|(place, part)| (part.as_str(), place.as_str())).collect() };
    places.rewrite(&mut root, &root_name)?;
    for (place, part) in &named {
        let found = part.split_once("#/").and_then(|(file, name)| Some((file, files.get(file)?.get(name)?)));
        let (file, value) = found.ok_or_else(|| format!("{root_name} names {part}, but there is no such part"))?;
        let mut value = value.clone();
        places.rewrite(&mut value, file)?;
        *root.pointer_mut(&place[1..]).ok_or_else(|| format!("{root_name} has no {place}"))? = value;
    }
    for (file, parts) in &files {
        let names = parts.as_object().ok_or_else(|| format!("{file} is not a JSON object"))?.keys();
        if let Some(part) = names.map(|name| format!("{file}#/{name}")).find(|part| !places.of_part.contains_key(part.as_str())) {
            return Err(format!("{root_name} does not name {part}: add it under `paths` or `components`, or delete it"));
        }
    }
    Ok(root)
}

/// Reads every JSON file of a folder. The key is its path in the folder.
fn read(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Value>) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().display());
        if path.is_dir() {
            read(&path, &format!("{name}/"), files)?;
        } else if name.ends_with(".json") {
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            files.insert(name, value);
        }
    }
    Ok(())
}

/// Each place where the root names a part, as a pointer such as `#/components/schemas/Seq`, with the part.
fn named_parts(root: &Value) -> Vec<(String, String)> {
    let kinds = root["components"].as_object().into_iter().flatten();
    let sections = kinds.map(|(kind, names)| (format!("#/components/{kind}"), names)).chain([("#/paths".to_owned(), &root["paths"])]);
    let mut named = Vec::new();
    for (section, names) in sections {
        for (name, value) in names.as_object().into_iter().flatten() {
            if let Some(part) = value["$ref"].as_str().filter(|part| !part.starts_with('#')) {
                named.push((format!("{section}/{}", name.replace('~', "~0").replace('/', "~1")), part.to_owned()));
            }
        }
    }
    named
}

/// Where the bundle has each part.
struct Places<'a> {
    root: &'a str,
    of_part: BTreeMap<&'a str, &'a str>,
}

impl Places<'_> {
    /// Changes each `$ref` in a value of a file from a part to the part's place.
    fn rewrite(&self, value: &mut Value, file: &str) -> Result<(), String> {
        match value {
            Value::Object(members) => {
                match members.get_mut("$ref") {
                    // The root's own pointers are those of the bundle.
                    Some(Value::String(to)) if !(file == self.root && to.starts_with('#')) => {
                        let place = self.of_part.get(absolute(file, to).as_str());
                        *to = place.ok_or_else(|| format!("{file} refers to {to}, which {} does not name", self.root))?.to_string();
                    }
                    _ => {}
                }
                members.values_mut().try_for_each(|member| self.rewrite(member, file))
            }
            Value::Array(list) => list.iter_mut().try_for_each(|member| self.rewrite(member, file)),
            _ => Ok(()),
        }
    }
}

/// A reference of a file as the root would write it: `../names.json#/Id` in `schemas/posts.json` is `names.json#/Id`.
fn absolute(file: &str, reference: &str) -> String {
    if reference.starts_with('#') {
        return format!("{file}{reference}");
    }
    let mut steps: Vec<&str> = file.split('/').collect();
    steps.pop();
    for step in reference.split('/') {
        // `#/` separates the file from the name, which has no further slash.
        match step {
            ".." => _ = steps.pop(),
            _ => steps.push(step),
        }
    }
    steps.join("/")
}
