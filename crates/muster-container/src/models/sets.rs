//! Models in several files: which files are one model, and room for all that are missing at once.

use std::fs::{self, File};
use std::io::Read as _;
use std::sync::Arc;

use muster_core::inference::{PARTS_MAX, WeightsId, WeightsPart};
use muster_core::units::Bytes;

use super::{Inner, Models, ModelsError, Room, Shelf, failed, remove};

/// What a list of the files of one model is called, before the model's name.
pub(super) const SET: &str = "set-";
/// A hash in hex, and the end of its line.
const LINE_LEN: usize = 65;

/// Room for the files of a model that are not here yet. What it holds of them is safe until they are taken from it.
#[derive(Debug)]
pub(crate) struct SetRoom {
    // Given back before the room is.
    waiting: Waiting,
    room: Room,
}

impl SetRoom {
    /// The room of one of the files.
    pub(crate) fn take(&mut self, part: &WeightsPart) -> Arc<Room> {
        self.waiting.ids.retain(|id| *id != part.weights);
        Arc::new(self.room.split(part.bytes))
    }
}

/// Files whose beginnings may be here, and make no room for anything meanwhile.
#[derive(Debug)]
struct Waiting {
    inner: Arc<Inner>,
    ids: Vec<WeightsId>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for id in &self.ids {
            let len = fs::metadata(self.inner.part(*id)).map_or(0, |meta| meta.len());
            let mut shelf = self.inner.lock();
            // Who fetches it notes itself what it leaves.
            if len > 0 && !shelf.flights.contains_key(id) {
                shelf.parts.insert(*id, len);
            }
        }
    }
}

impl Models {
    /// Makes room for those of these files that are not here, for all of them or for none. Those that are must be held.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn room_for(&self, parts: &[WeightsPart]) -> Result<SetRoom, ModelsError> {
        let (mut ids, mut bytes) = (Vec::new(), 0u64);
        {
            let mut shelf = self.inner.lock();
            for part in parts.iter().filter(|part| !shelf.files.contains_key(&part.weights)).collect::<Vec<_>>() {
                // What is here of it counts as reserved from here on.
                shelf.parts.remove(&part.weights);
                ids.push(part.weights);
                bytes = bytes.saturating_add(part.bytes.0);
            }
        }
        let waiting = Waiting { inner: Arc::clone(&self.inner), ids };
        let room = self.inner.reserve(Bytes(bytes))?;
        Ok(SetRoom { waiting, room })
    }

    /// Writes down that these files, which are here and were looked at together, are this model.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep_set(&self, id: WeightsId, parts: &[WeightsPart]) -> Result<(), ModelsError> {
        let list = self.inner.set(id);
        let lines: String = parts.iter().map(|part| format!("{}\n", part.weights)).collect();
        fs::write(&list, lines).map_err(failed("write", &list))?;
        let mut shelf = self.inner.lock();
        shelf.sets.insert(id, parts.iter().map(|part| part.weights).collect());
        self.inner.show(&shelf);
        Ok(())
    }
}

impl Inner {
    fn set(&self, id: WeightsId) -> std::path::PathBuf {
        self.dir.join(format!("{SET}{id}"))
    }

    /// Takes over the list that an earlier process has left of a model, if all of its files are here.
    pub(super) fn reopen_set(&self, shelf: &mut Shelf, id: WeightsId) {
        let place = self.set(id);
        let read = || {
            let mut text = String::new();
            let most = u64::try_from(LINE_LEN * PARTS_MAX).unwrap_or(u64::MAX);
            File::open(&place).ok()?.take(most).read_to_string(&mut text).ok()?;
            let part = |line: &str| {
                let weights = line.parse().ok()?;
                Some(WeightsPart { weights, bytes: Bytes(shelf.files.get(&weights)?.bytes) })
            };
            text.lines().map(part).collect::<Option<Vec<WeightsPart>>>()
        };
        match read().filter(|parts| WeightsId::of_parts(parts) == id) {
            Some(parts) => drop(shelf.sets.insert(id, parts.iter().map(|part| part.weights).collect())),
            None => remove(&place),
        }
    }

    /// A file is gone: the models that it belonged to are not here any more.
    pub(super) fn break_sets(&self, shelf: &mut Shelf, gone: WeightsId) {
        let broken = shelf.sets.extract_if(.., |_, parts| parts.contains(&gone));
        broken.for_each(|(id, _)| remove(&self.set(id)));
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::super::{Held, Wanted};
    use super::*;

    fn part(content: &[u8]) -> WeightsPart {
        WeightsPart { weights: WeightsId(Sha256::digest(content).into()), bytes: Bytes(content.len() as u64) }
    }

    fn take(models: &Models, content: &[u8], room: Option<Arc<Room>>) -> Result<Held, ModelsError> {
        let WeightsPart { weights, bytes } = part(content);
        models.take_in(Wanted { id: weights, bytes, room }, content, |_| Ok(()), |_| {})
    }

    #[test]
    fn a_model_in_parts_is_here_as_long_as_all_of_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Models::open(dir.path().to_owned(), Bytes(10)).unwrap();
        let models = open();
        let parts = [part(b"1111"), part(b"2222")];
        let id = WeightsId::of_parts(&parts);
        drop((take(&models, b"1111", None).unwrap(), take(&models, b"2222", None).unwrap()));
        assert!(!models.has(id), "nobody has looked at them together");
        models.keep_set(id, &parts).unwrap();
        assert!(models.has(id) && models.has(parts[0].weights));
        assert_eq!(*models.warm().borrow(), [id.warm_id()]);
        drop(models);
        let models = open();
        assert!(models.has(id));
        // The longest unused of them makes room, and with it goes the model.
        drop(models.hold(parts[1].weights));
        drop(take(&models, b"33", None).unwrap());
        assert!(models.has(id));
        drop(take(&models, b"4", None).unwrap());
        assert!(!models.has(id) && !models.has(parts[0].weights) && models.has(parts[1].weights));
        assert!(!dir.path().join(format!("set-{id}")).exists());
        // A list that does not fit what is here is none.
        let list = dir.path().join(format!("set-{id}"));
        for wrong in [format!("{}\n", parts[1].weights), "x".repeat(10_000), format!("{}\n", parts[0].weights)] {
            std::fs::write(&list, wrong).unwrap();
            assert!(!open().has(id) && !list.exists());
        }
    }

    #[test]
    fn room_is_made_for_all_parts_or_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let models = Models::open(dir.path().to_owned(), Bytes(10)).unwrap();
        let parts = [part(b"1111"), part(b"2222"), part(b"333")];
        let held = take(&models, b"1111", None).unwrap();
        // Its beginning is here already, and stays.
        std::fs::write(models.inner.part(parts[1].weights), b"22").unwrap();
        models.inner.lock().parts.insert(parts[1].weights, 2);
        let full = models.room_for(&parts).unwrap_err();
        assert!(full.is_ours() && full.to_string().contains("need 7 B"), "{full}");
        assert_eq!(models.inner.lock().parts.get(&parts[1].weights), Some(&2), "it is nobody's again");
        let mut room = models.room_for(&parts[..2]).unwrap();
        assert!(take(&models, b"55555", None).is_err(), "what is promised is not given to others");
        drop(take(&models, b"55", None).unwrap());
        assert!(models.inner.part(parts[1].weights).exists());
        let second = take(&models, b"2222", Some(room.take(&parts[1]))).unwrap();
        drop(room);
        assert_eq!(models.inner.lock().reserved, 0);
        drop((held, second));
    }
}
