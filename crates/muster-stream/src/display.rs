//! A private display: what a program draws on, and how its picture is read.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use memmap2::Mmap;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::damage::{self, ConnectionExt as _};
use x11rb::protocol::shm::{self, ConnectionExt as _};
use x11rb::protocol::xfixes::ConnectionExt as _;
use x11rb::protocol::xproto::{ImageFormat, ImageOrder};
use x11rb::rust_connection::{DefaultStream, RustConnection};

/// Bytes of a pixel as the display keeps it: blue, green, red, and one that means nothing.
pub(crate) const PIXEL_BYTES: usize = 4;
/// More changed places than this are taken as one that holds them all.
const AREAS_MAX: usize = 8;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum DisplayError {
    /// The display's server cannot be reached.
    #[error("cannot reach the display at {path}: {source}")]
    Connect {
        /// Its socket.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It answered something else than expected.
    #[error("the display's server cannot {what}: {why}")]
    Protocol {
        /// What was asked of it.
        what: &'static str,
        /// What came.
        why: String,
    },
    /// Memory for pictures cannot be had.
    #[error("no memory for pictures of the display: {0}")]
    Memory(#[from] io::Error),
}

impl DisplayError {
    pub(crate) fn protocol(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Protocol { what, why: why.to_string() }
    }
}

/// A part of the picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Left edge.
    pub x: u16,
    /// Upper edge.
    pub y: u16,
    /// Width; never 0.
    pub width: u16,
    /// Height; never 0.
    pub height: u16,
}

impl Area {
    const fn pixels(self) -> u64 {
        self.width as u64 * self.height as u64
    }

    const fn right(self) -> u16 {
        self.x.saturating_add(self.width)
    }

    const fn bottom(self) -> u16 {
        self.y.saturating_add(self.height)
    }

    fn around(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let (right, bottom) = (self.right().max(other.right()), self.bottom().max(other.bottom()));
        Self { x, y, width: right - x, height: bottom - y }
    }

    /// Inside the picture, and grown to whole pairs of pixels, as colours are kept for pairs.
    fn paired(self, width: u16, height: u16) -> Option<Self> {
        let (x, y) = (self.x & !1, self.y & !1);
        let right = self.right().saturating_add(1).min(width) & !1;
        let bottom = self.bottom().saturating_add(1).min(height) & !1;
        (x < right && y < bottom).then(|| Self { x, y, width: right - x, height: bottom - y })
    }
}

/// What has changed since the last look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage {
    areas: Vec<Area>,
}

impl Damage {
    pub(crate) fn whole(width: u16, height: u16) -> Self {
        Self { areas: vec![Area { x: 0, y: 0, width, height }] }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// Adds a part; parts that overlap or are close to one another become one.
    pub(crate) fn add(&mut self, mut area: Area) {
        if area.width == 0 || area.height == 0 {
            return;
        }
        // Joined wherever the join costs little more than both parts: reading a row twice is dearer than a few pixels.
        while let Some(at) = self.areas.iter().position(|old| {
            let joined = area.around(*old).pixels();
            joined <= (area.pixels() + old.pixels()) * 5 / 4
        }) {
            area = area.around(self.areas.swap_remove(at));
        }
        self.areas.push(area);
        if self.areas.len() > AREAS_MAX
            && let Some(all) = self.areas.iter().copied().reduce(Area::around)
        {
            self.areas = vec![all];
        }
    }

    pub(crate) fn take(&mut self) -> Self {
        Self { areas: std::mem::take(&mut self.areas) }
    }
}

/// What a private display does. Today an X server without a screen; a compositor on a card will be another.
pub trait Display: Send {
    /// Width and height of the picture.
    fn size(&self) -> (u16, u16);

    /// Becomes readable when something may have changed.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Whether anything has changed since the last [`Display::read`]; asks without waiting.
    ///
    /// # Errors
    /// The display is gone.
    fn changed(&mut self) -> Result<bool, DisplayError>;

    /// Reads what has changed (or all of it), and gives each part with its pixels, rows without gaps.
    ///
    /// # Errors
    /// The display is gone.
    fn read(&mut self, all: bool, part: &mut dyn FnMut(Area, &[u8])) -> Result<(), DisplayError>;
}

/// An X server, reached by its socket.
pub(crate) struct XDisplay {
    connection: RustConnection,
    root: u32,
    width: u16,
    height: u16,
    damage_id: damage::Damage,
    damage: Damage,
    segment: shm::Seg,
    pixels: Mmap,
}

impl std::fmt::Debug for XDisplay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XDisplay").field("width", &self.width).field("height", &self.height).finish_non_exhaustive()
    }
}

/// Connects to the X server behind a socket.
pub(crate) fn connect(socket: &Path) -> Result<RustConnection, DisplayError> {
    let failed = |source| DisplayError::Connect { path: socket.display().to_string(), source };
    let stream = UnixStream::connect(socket).map_err(failed)?;
    let (stream, _) = DefaultStream::from_unix_stream(stream).map_err(failed)?;
    RustConnection::connect_to_stream(stream, 0).map_err(|e| DisplayError::protocol("open a connection", e))
}

impl XDisplay {
    pub(crate) fn open(socket: &Path) -> Result<Self, DisplayError> {
        let connection = connect(socket)?;
        let setup = connection.setup();
        let screen = setup.roots.first().ok_or_else(|| DisplayError::protocol("show a screen", "it has none"))?;
        let (root, width, height) = (screen.root, screen.width_in_pixels & !1, screen.height_in_pixels & !1);
        if screen.root_depth != 24 || setup.image_byte_order != ImageOrder::LSB_FIRST {
            return Err(DisplayError::protocol("show 24 bits of colour", format!("it has {}", screen.root_depth)));
        }
        let ask = |what| move |e: x11rb::errors::ReplyError| DisplayError::protocol(what, e);
        let lost = |what| move |e: x11rb::errors::ConnectionError| DisplayError::protocol(what, e);
        let extension = "tell its extensions";
        connection.shm_query_version().map_err(lost(extension))?.reply().map_err(ask(extension))?;
        connection.damage_query_version(1, 1).map_err(lost(extension))?.reply().map_err(ask(extension))?;
        connection.xfixes_query_version(5, 0).map_err(lost(extension))?.reply().map_err(ask(extension))?;
        // The page draws the pointer. Drawn here it would be taken off and put back for each picture, which counts as change.
        connection.xfixes_hide_cursor(root).map_err(lost("hide its pointer"))?;
        let bytes = usize::from(width) * usize::from(height) * PIXEL_BYTES;
        let (segment, pixels) = share(&connection, bytes)?;
        let damage_id = connection.generate_id().map_err(|e| DisplayError::protocol("give a name", e))?;
        connection
            .damage_create(damage_id, root, damage::ReportLevel::DELTA_RECTANGLES)
            .map_err(lost("report changes"))?
            .check()
            .map_err(ask("report changes"))?;
        let damage = Damage::default();
        Ok(Self { connection, root, width, height, damage_id, damage, segment, pixels })
    }

    fn drain(&mut self) -> Result<(), DisplayError> {
        while let Some(event) =
            self.connection.poll_for_event().map_err(|e| DisplayError::protocol("tell what changed", e))?
        {
            self.note(&event);
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        if let Event::DamageNotify(notify) = event {
            let positive = |v: i16| u16::try_from(v).unwrap_or(0);
            let area = notify.area;
            self.damage.add(Area { x: positive(area.x), y: positive(area.y), width: area.width, height: area.height });
        }
    }

    /// Asks for each area one after another into the shared memory, and waits once, for the last.
    fn fetch(&mut self, areas: &[Area]) -> Result<Vec<usize>, DisplayError> {
        let lost = |e: x11rb::errors::ConnectionError| DisplayError::protocol("give its picture", e);
        // From here on changes are told anew; what was drawn before is in the pictures that follow.
        self.connection.damage_subtract(self.damage_id, 0u32, 0u32).map_err(lost)?;
        let mut offsets = Vec::with_capacity(areas.len());
        let mut replies = Vec::with_capacity(areas.len());
        let mut offset = 0usize;
        for area in areas {
            let at = u32::try_from(offset).map_err(|e| DisplayError::protocol("give its picture", e))?;
            let (x, y) = (area.x.cast_signed(), area.y.cast_signed());
            let format = u8::from(ImageFormat::Z_PIXMAP);
            let (width, height) = (area.width, area.height);
            let reply = self
                .connection
                .shm_get_image(self.root, x, y, width, height, !0, format, self.segment, at)
                .map_err(lost)?;
            replies.push(reply);
            offsets.push(offset);
            offset += usize::from(width) * usize::from(height) * PIXEL_BYTES;
        }
        for reply in replies {
            reply.reply().map_err(|e| DisplayError::protocol("give its picture", e))?;
        }
        Ok(offsets)
    }
}

/// Memory that the X server writes and this process only reads. Sealed, so that the server, which a stranger's program
/// talks to, cannot take it away under a reader.
fn share(connection: &RustConnection, bytes: usize) -> Result<(shm::Seg, Mmap), DisplayError> {
    let memory = memfd_create("muster-picture", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| DisplayError::Memory(e.into()))?;
    let length = u64::try_from(bytes).map_err(|e| DisplayError::protocol("size its picture", e))?;
    ftruncate(&memory, length).map_err(|e| DisplayError::Memory(e.into()))?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(|e| DisplayError::Memory(e.into()))?;
    let file = File::from(memory);
    // SAFETY: the file is this process's own, in memory, and sealed against changes of its size, so no access can fault.
    // The server writes it only between a request and its reply, while nothing here reads it; a server that breaks this
    // rule changes bytes of a picture, for which every value is a good one.
    #[allow(unsafe_code, reason = "memory shared with another process has no safe view")]
    let pixels = unsafe { Mmap::map(&file) }?;
    let segment = connection.generate_id().map_err(|e| DisplayError::protocol("give a name", e))?;
    connection
        .shm_attach_fd(segment, file, false)
        .map_err(|e| DisplayError::protocol("share memory", e))?
        .check()
        .map_err(|e| DisplayError::protocol("share memory", e))?;
    Ok((segment, pixels))
}

impl Display for XDisplay {
    fn size(&self) -> (u16, u16) {
        (self.width, self.height)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream().as_fd()
    }

    fn changed(&mut self) -> Result<bool, DisplayError> {
        self.drain()?;
        Ok(!self.damage.is_empty())
    }

    fn read(&mut self, all: bool, part: &mut dyn FnMut(Area, &[u8])) -> Result<(), DisplayError> {
        let mut damage = if all {
            self.damage.take();
            Damage::whole(self.width, self.height)
        } else {
            self.damage.take()
        };
        let mut areas: Vec<Area> =
            damage.areas.iter().filter_map(|area| area.paired(self.width, self.height)).collect();
        let room = u64::from(self.width) * u64::from(self.height);
        if areas.iter().map(|area| area.pixels()).sum::<u64>() > room {
            damage = Damage::whole(self.width, self.height);
            areas = damage.areas;
        }
        let offsets = self.fetch(&areas)?;
        for (area, offset) in areas.into_iter().zip(offsets) {
            let bytes = usize::from(area.width) * usize::from(area.height) * PIXEL_BYTES;
            if let Some(pixels) = self.pixels.get(offset..offset + bytes) {
                part(area, pixels);
            }
        }
        // Replies may have overtaken events: those were read along, and are looked at now.
        self.drain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(x: u16, y: u16, width: u16, height: u16) -> Area {
        Area { x, y, width, height }
    }

    #[test]
    fn far_parts_stay_apart_and_close_ones_join() {
        let mut damage = Damage::default();
        damage.add(area(0, 0, 1040, 200));
        damage.add(area(300, 400, 120, 120));
        assert_eq!(damage.areas.len(), 2);
        damage.add(area(305, 403, 120, 120));
        assert_eq!(damage.areas, [area(0, 0, 1040, 200), area(300, 400, 125, 123)]);
        damage.add(area(0, 0, 0, 10));
        assert_eq!(damage.areas.len(), 2);
    }

    #[test]
    fn many_parts_become_one() {
        let mut damage = Damage::default();
        for at in 0..=8 {
            damage.add(area(at * 100, at * 70, 2, 2));
        }
        assert_eq!(damage.areas, [area(0, 0, 802, 562)]);
    }

    #[test]
    fn parts_are_whole_pairs_inside_the_picture() {
        assert_eq!(area(3, 5, 2, 2).paired(100, 100), Some(area(2, 4, 4, 4)));
        assert_eq!(area(99, 99, 50, 50).paired(100, 100), Some(area(98, 98, 2, 2)));
        assert_eq!(area(100, 0, 5, 5).paired(100, 100), None);
        assert_eq!(area(0, 0, u16::MAX, u16::MAX).paired(64, 48), Some(area(0, 0, 64, 48)));
    }
}
