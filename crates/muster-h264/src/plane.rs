//! Pictures in memory, in whole macroblocks.

use std::ops::{Deref, DerefMut};

use crate::Planes;

/// One of the three parts of a picture, or of some rows of it.
#[derive(Clone, Debug)]
pub(crate) struct Plane<D = Vec<u8>> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    data: D,
}

impl Plane {
    #[inline(always)]
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0; width * height] }
    }
}

impl<D: Deref<Target = [u8]>> Plane<D> {
    /// `count` values of a row from a place on.
    #[inline(always)]
    pub(crate) fn run<const W: usize>(&self, x: usize, y: usize) -> &[u8; W] {
        let at = y * self.width + x;
        match self.data[at..].first_chunk() {
            Some(run) => run,
            // Whoever asks stays inside; this is here for the compiler.
            None => &[0; W],
        }
    }

    #[inline(always)]
    pub(crate) fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width..(y + 1) * self.width]
    }

    #[inline(always)]
    pub(crate) fn block<const W: usize, const H: usize>(&self, x: usize, y: usize) -> [[u8; W]; H] {
        let mut block = [[0; W]; H];
        for (row, line) in block.iter_mut().enumerate() {
            *line = *self.run(x, y + row);
        }
        block
    }

    /// Whether a block here is one there.
    #[inline(always)]
    pub(crate) fn same<const S: usize>(&self, (x, y): (usize, usize), other: &Self, (ox, oy): (usize, usize)) -> bool {
        (0..S).all(|row| self.run::<S>(x, y + row) == other.run::<S>(ox, oy + row))
    }
}

impl<D: DerefMut<Target = [u8]>> Plane<D> {
    #[inline(always)]
    fn run_mut<const W: usize>(&mut self, x: usize, y: usize) -> &mut [u8; W] {
        let at = y * self.width + x;
        self.data[at..].first_chunk_mut().expect("whoever writes stays inside")
    }

    #[inline(always)]
    fn row_mut(&mut self, y: usize) -> &mut [u8] {
        &mut self.data[y * self.width..(y + 1) * self.width]
    }

    #[inline(always)]
    pub(crate) fn put<const W: usize, const H: usize>(&mut self, x: usize, y: usize, block: &[[u8; W]; H]) {
        for (row, line) in block.iter().enumerate() {
            *self.run_mut(x, y + row) = *line;
        }
    }

    /// Copies a block from another place of another one.
    #[inline(always)]
    pub(crate) fn copy<const S: usize>(&mut self, (x, y): (usize, usize), from: &Plane, (fx, fy): (usize, usize)) {
        for row in 0..S {
            *self.run_mut::<S>(x, y + row) = *from.run(fx, fy + row);
        }
    }

    /// The rows of it, so many of them one after the other.
    fn bands(&mut self, rows: &[usize]) -> Vec<Plane<&mut [u8]>> {
        let width = self.width;
        let mut rest = &mut *self.data;
        let mut cut = |rows: &usize| {
            let (data, beyond) = std::mem::take(&mut rest).split_at_mut(rows * width);
            rest = beyond;
            Plane { width, height: *rows, data }
        };
        rows.iter().map(&mut cut).collect()
    }
}

/// A picture, or some rows of it: brightness, and two colours at half the size.
#[derive(Clone, Debug)]
pub(crate) struct Frame<D = Vec<u8>> {
    pub(crate) y: Plane<D>,
    pub(crate) u: Plane<D>,
    pub(crate) v: Plane<D>,
}

impl Frame {
    /// Of so many macroblocks.
    #[inline(always)]
    pub(crate) fn new(across: usize, down: usize) -> Self {
        let colour = Plane::new(across * 8, down * 8);
        Self { y: Plane::new(across * 16, down * 16), u: colour.clone(), v: colour }
    }

    /// Says which macroblocks of a row are not those of a picture. Whole lines are compared one after the other: memory is
    /// read in the order in which it lies.
    pub(crate) fn differs(&self, picture: &Planes<'_>, my: usize, differs: &mut [bool]) {
        let [y, u, v] = picture.parts();
        differs.fill(false);
        y.differs::<16>(&self.y, my, differs);
        u.differs::<8>(&self.u, my, differs);
        v.differs::<8>(&self.v, my, differs);
    }

    /// Its rows of macroblocks, so many of them one after the other.
    pub(crate) fn bands(&mut self, rows: &[usize]) -> Vec<Frame<&mut [u8]>> {
        let (luma, chroma): (Vec<usize>, Vec<usize>) = rows.iter().map(|rows| (rows * 16, rows * 8)).unzip();
        let colours = self.u.bands(&chroma).into_iter().zip(self.v.bands(&chroma));
        self.y.bands(&luma).into_iter().zip(colours).map(|(y, (u, v))| Frame { y, u, v }).collect()
    }
}

impl<D: DerefMut<Target = [u8]>> Frame<D> {
    /// Takes a macroblock over from a picture, of which this is the rows from `top` on.
    #[inline(always)]
    pub(crate) fn take(&mut self, picture: &Planes<'_>, mx: usize, my: usize, top: usize) {
        let [y, u, v] = picture.parts();
        self.y.put::<16, 16>(mx * 16, my * 16, &y.block(mx * 16, (top + my) * 16));
        self.u.put::<8, 8>(mx * 8, my * 8, &u.block(mx * 8, (top + my) * 8));
        self.v.put::<8, 8>(mx * 8, my * 8, &v.block(mx * 8, (top + my) * 8));
    }

    /// Takes a whole row of macroblocks over.
    pub(crate) fn take_row(&mut self, picture: &Planes<'_>, my: usize, top: usize) {
        let [y, u, v] = picture.parts();
        y.copy_rows::<16>(&mut self.y, my, top);
        u.copy_rows::<8>(&mut self.u, my, top);
        v.copy_rows::<8>(&mut self.v, my, top);
    }

    /// Copies one macroblock from the same place of another picture, of which this is the rows from `top` on.
    #[inline(always)]
    pub(crate) fn copy(&mut self, from: &Frame, mx: usize, my: usize, top: usize) {
        self.y.copy::<16>((mx * 16, my * 16), &from.y, (mx * 16, (top + my) * 16));
        self.u.copy::<8>((mx * 8, my * 8), &from.u, (mx * 8, (top + my) * 8));
        self.v.copy::<8>((mx * 8, my * 8), &from.v, (mx * 8, (top + my) * 8));
    }
}

/// One of the three parts of a picture as it was given. What is missing up to whole macroblocks is its last column and row.
#[derive(Clone, Copy)]
struct Given<'a> {
    data: &'a [u8],
    width: usize,
    height: usize,
}

impl<'a> Planes<'a> {
    #[inline(always)]
    fn parts(&self) -> [Given<'a>; 3] {
        let (width, height) = (self.width / 2, self.height / 2);
        [
            Given { data: self.y, width: self.width, height: self.height },
            Given { data: self.u, width, height },
            Given { data: self.v, width, height },
        ]
    }
}

impl Given<'_> {
    #[inline(always)]
    fn run<const S: usize>(&self, x: usize, y: usize) -> Option<&[u8; S]> {
        self.data.get(y * self.width + x..)?.first_chunk()
    }

    #[inline(always)]
    fn block<const S: usize>(&self, x: usize, y: usize) -> [[u8; S]; S] {
        let mut block = [[0; S]; S];
        if x + S <= self.width && y + S <= self.height {
            for (row, line) in block.iter_mut().enumerate() {
                *line = self.run(x, y + row).copied().unwrap_or(*line);
            }
            return block;
        }
        for (row, line) in block.iter_mut().enumerate() {
            let from = (y + row).min(self.height - 1) * self.width;
            for (column, value) in line.iter_mut().enumerate() {
                *value = self.data.get(from + (x + column).min(self.width - 1)).copied().unwrap_or_default();
            }
        }
        block
    }

    #[inline(always)]
    fn row(&self, y: usize) -> &[u8] {
        let at = y.min(self.height - 1) * self.width;
        self.data.get(at..at + self.width).unwrap_or_default()
    }

    #[inline(always)]
    fn copy_rows<const S: usize>(&self, plane: &mut Plane<impl DerefMut<Target = [u8]>>, my: usize, top: usize) {
        for y in my * S..(my + 1) * S {
            let from = self.row(top * S + y);
            let (row, beyond) = plane.row_mut(y).split_at_mut(from.len());
            row.copy_from_slice(from);
            beyond.fill(from.last().copied().unwrap_or_default());
        }
    }

    #[inline(always)]
    fn differs<const S: usize>(&self, plane: &Plane, my: usize, differs: &mut [bool]) {
        // What is beyond the picture is its last row and column, and differs where these do.
        for y in my * S..((my + 1) * S).min(self.height) {
            let (given, rest) = self.row(y).as_chunks::<S>();
            let row = plane.row(y);
            let (had, _) = row.as_chunks::<S>();
            for ((given, had), differs) in given.iter().zip(had).zip(differs.iter_mut()) {
                *differs |= given != had;
            }
            if let Some(last) = differs.get_mut(given.len())
                && row.get(self.width - rest.len()..self.width) != Some(rest)
            {
                *last = true;
            }
        }
    }
}
