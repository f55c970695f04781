//! Weights in several files: what is too large for a hub to take in one comes so, and llama.cpp opens it so.

use serde::{Deserialize, Serialize};

use super::{HubFile, ModelError, ModelSource, ModelSpec, WEIGHTS_MAX, WeightsId};
use crate::units::Bytes;

/// Files of one model, at most.
pub const PARTS_MAX: usize = 64;
/// What a model's file is called between consumer, Gateway and Container; of several, what their names begin with.
pub const WEIGHTS_NAME: &str = "weights";
/// What a name ends with.
const GGUF: &str = ".gguf";

/// One file of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsPart {
    /// Its SHA-256.
    pub weights: WeightsId,
    /// How large it is.
    pub bytes: Bytes,
}

impl WeightsId {
    /// What stands for several files together: a hash over their hashes and lengths, in their order.
    #[must_use]
    pub fn of_parts(parts: &[WeightsPart]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("muster weights in parts v1");
        for part in parts {
            hasher.update(&part.weights.0);
            hasher.update(&part.bytes.0.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

/// The name of one file of several, `STEM-00002-of-00005.gguf`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartName<'a> {
    /// What all of them begin with.
    pub stem: &'a str,
    /// Which it is, from 1 on.
    pub number: u16,
    /// How many there are.
    pub count: u16,
    end: &'a str,
}

impl<'a> PartName<'a> {
    /// Takes a name apart; `None` where it is that of a whole file.
    #[must_use]
    pub fn of(name: &'a str) -> Option<Self> {
        let (rest, end) = name.split_at_checked(name.len().checked_sub(GGUF.len())?)?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        let (front, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = front.rsplit_once('-')?;
        if !end.eq_ignore_ascii_case(GGUF) || !digits(number) || !digits(count) {
            return None;
        }
        let (number, count) = (number.parse().ok()?, count.parse().ok()?);
        (1..=count).contains(&number).then_some(Self { stem, number, count, end })
    }

    /// The name of another one of the same.
    #[must_use]
    pub fn nth(&self, number: u16) -> String {
        format!("{}-{number:05}-of-{:05}{}", self.stem, self.count, self.end)
    }
}

/// One file of a model, and where it can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// What it is called between consumer, Gateway and Container, and what engines see.
    pub name: String,
    /// Which it is, and how large.
    pub part: WeightsPart,
    /// Which of how many, from 1 on; none where it is the whole model.
    pub place: Option<(u16, u16)>,
    /// The file on a hub that it can be had from, and whether that wants a token.
    pub hub: Option<(HubFile, bool)>,
}

impl ModelSpec {
    /// Its files, in their order; one, for most models.
    #[must_use]
    pub fn files(&self) -> Vec<ModelFile> {
        let hub = self.hub().map(|(file, private)| (file.clone(), private));
        if self.parts.is_empty() {
            let part = WeightsPart { weights: self.weights, bytes: self.bytes };
            return vec![ModelFile { name: WEIGHTS_NAME.to_owned(), part, place: None, hub }];
        }
        // `check` bounds it.
        let count = u16::try_from(self.parts.len()).unwrap_or(u16::MAX);
        let names = PartName { stem: WEIGHTS_NAME, number: 1, count, end: GGUF };
        let file = |(part, number): (&WeightsPart, u16)| ModelFile {
            name: names.nth(number),
            part: *part,
            place: Some((number, count)),
            hub: hub.as_ref().and_then(|(first, private)| Some((first.nth(number)?, *private))),
        };
        self.parts.iter().zip(1..=count).map(file).collect()
    }

    /// Refuses files that cannot be one model's.
    pub(super) fn check_parts(&self) -> Result<(), ModelError> {
        let wrong = |why: String| Err(ModelError::Parts(why));
        let count = self.parts.len();
        for source in &self.sources {
            let ModelSource::Hub { file, .. } = source else { continue };
            let (number, named) = file.part().map_or((1, 1), |name| (name.number, usize::from(name.count)));
            if number != 1 || named != count.max(1) {
                return wrong(format!("{file} is file {number} of {named}, and {} are named", count.max(1)));
            }
        }
        if count == 0 {
            return Ok(());
        }
        if !(2..=PARTS_MAX).contains(&count) {
            return wrong(format!("there are {count}; a model in parts has from 2 to {PARTS_MAX}"));
        }
        if self.endpoint.is_some() {
            return wrong("an endpoint has none".to_owned());
        }
        let mut sum = 0u64;
        for (at, part) in self.parts.iter().enumerate() {
            if part.bytes == Bytes(0) || part.bytes > WEIGHTS_MAX {
                return wrong(format!("{} has {} bytes", part.weights, part.bytes.0));
            }
            if self.parts.iter().take(at).any(|before| before.weights == part.weights) {
                return wrong(format!("{} comes twice", part.weights));
            }
            sum = sum.saturating_add(part.bytes.0);
        }
        if sum != self.bytes.0 {
            return wrong(format!("they have {sum} bytes together, announced were {}", self.bytes.0));
        }
        let id = WeightsId::of_parts(&self.parts);
        if id != self.weights {
            return wrong(format!("their hashes make {id}, announced was {}", self.weights));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ModelKind;
    use super::*;

    fn part(byte: u8, bytes: u64) -> WeightsPart {
        WeightsPart { weights: WeightsId([byte; 32]), bytes: Bytes(bytes) }
    }

    fn spec(parts: &[WeightsPart], file: &str) -> ModelSpec {
        ModelSpec {
            name: "m".to_owned(),
            kind: ModelKind::Chat,
            weights: WeightsId::of_parts(parts),
            bytes: Bytes(parts.iter().map(|part| part.bytes.0).sum()),
            parts: parts.to_vec(),
            sources: vec![ModelSource::Hub { file: file.parse().unwrap(), private: true }],
            context: 64,
            parallel: 1,
            endpoint: None,
        }
    }

    #[test]
    fn names_of_parts_are_taken_apart() {
        let name = PartName::of("q4/m-q4-00002-of-00005.gguf").unwrap();
        assert_eq!((name.stem, name.number, name.count), ("q4/m-q4", 2, 5));
        assert_eq!(name.nth(5), "q4/m-q4-00005-of-00005.gguf");
        assert_eq!(PartName::of("M-00001-of-00001.GGUF").unwrap().nth(1), "M-00001-of-00001.GGUF");
        for whole in
            ["m.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-1-of-2.gguf", "m-00001-of-00002", "é"]
        {
            assert_eq!(PartName::of(whole), None, "{whole}");
        }
    }

    #[test]
    fn files_of_a_model_follow_from_the_first_ones_name() {
        let parts = [part(1, 10), part(2, 20)];
        let spec = spec(&parts, "hf:a/b@c:x/m-00001-of-00002.gguf");
        spec.check().unwrap();
        let files = spec.files();
        let seen = |file: &ModelFile| (file.name.clone(), file.part, file.hub.as_ref().unwrap().0.to_string());
        assert_eq!(
            files.iter().map(seen).collect::<Vec<_>>(),
            [
                ("weights-00001-of-00002.gguf".to_owned(), parts[0], "hf:a/b@c:x/m-00001-of-00002.gguf".to_owned()),
                ("weights-00002-of-00002.gguf".to_owned(), parts[1], "hf:a/b@c:x/m-00002-of-00002.gguf".to_owned()),
            ]
        );
        assert_eq!((files[1].place, files[1].hub.as_ref().unwrap().1), (Some((2, 2)), true));
        let whole = ModelSpec { parts: Vec::new(), sources: Vec::new(), ..spec };
        let files = whole.files();
        assert_eq!((files.len(), files[0].name.as_str(), files[0].place), (1, "weights", None));
        assert_eq!(files[0].part, WeightsPart { weights: whole.weights, bytes: whole.bytes });
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let (first, parts) = ("hf:a/b:m-00001-of-00003.gguf", [part(1, 10), part(2, 20), part(3, 30)]);
        let good = spec(&parts, first);
        good.check().unwrap();
        let why = |spec: ModelSpec| spec.check().unwrap_err().to_string();
        let missing = why(spec(&parts[..2], first));
        assert!(missing.contains("file 1 of 3, and 2 are named"), "{missing}");
        assert!(why(spec(&parts, "hf:a/b:m-00002-of-00003.gguf")).contains("file 2 of 3"));
        assert!(why(spec(&parts, "hf:a/b:m.gguf")).contains("file 1 of 1, and 3 are named"));
        assert!(why(spec(&[], first)).contains("from 1 to"), "no bytes");
        let alone = ModelSpec { parts: Vec::new(), ..good.clone() };
        assert!(why(alone).contains("file 1 of 3, and 1 are named"));
        assert!(why(spec(&[parts[0], parts[1], parts[0]], first)).contains("comes twice"));
        assert!(why(spec(&[parts[0], parts[1], part(4, 0)], first)).contains("has 0 bytes"));
        assert!(why(ModelSpec { bytes: Bytes(61), ..good.clone() }).contains("60 bytes together, announced were 61"));
        let swapped = ModelSpec { parts: vec![parts[1], parts[0], parts[2]], ..good.clone() };
        assert!(why(swapped).contains("their hashes make"));
        let here = |parts: &[WeightsPart]| ModelSpec { sources: Vec::new(), ..spec(parts, first) };
        assert!(why(here(&parts[..1])).contains("there are 1;"));
        let many: Vec<WeightsPart> = (0..65).map(|byte| part(byte, 1)).collect();
        assert!(why(here(&many)).contains("there are 65;"));
        assert_ne!(WeightsId::of_parts(&[part(1, 1), part(2, 2)]), WeightsId::of_parts(&[part(1, 1), part(2, 3)]));
    }
}
