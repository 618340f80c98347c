//! Images that no container uses go when the disk fills, the longest unused first. Pinned ones never do: they were loaded
//! by hand or made by kobune, and no registry may have them.
//!
//! Source of the rules: `pkg/kubelet/images/image_gc_manager.go`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kobune_runtime::Image;
use tokio::time::Instant;

use crate::context::Context;
use crate::errors::chain;
use crate::events::Severity;
use crate::machine::{self, Disk};

/// Above this part of the disk in hundredths images go, until it is down to the other; upstream's.
const HIGH: u64 = 85;
const LOW: u64 = 80;
/// An image that came less than this ago may be about to be used.
const LEAST_AGE: Duration = Duration::from_secs(120);
/// How often the disk is looked at for this.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// When an image was first seen and last used.
#[derive(Clone, Copy, Debug)]
struct Known {
    first: Instant,
    used: Instant,
}

/// Remembers which images were used when.
#[derive(Debug)]
pub struct ImageGarbage {
    known: BTreeMap<String, Known>,
    due: Instant,
}

/// Bytes that have to go for the disk to be as full as it should be. Pure.
fn to_free(disk: &Disk) -> u64 {
    let used = disk.size.saturating_sub(disk.available);
    if disk.size == 0 || used.saturating_mul(100) / disk.size < HIGH {
        return 0;
    }
    used.saturating_sub(disk.size / 100 * LOW)
}

impl ImageGarbage {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> ImageGarbage {
        ImageGarbage { known: BTreeMap::new(), due: now + LOOK_EVERY }
    }

    /// Takes note of what is there and what is used.
    fn note(&mut self, images: &[Image], in_use: &HashSet<String>, now: Instant) {
        self.known.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let known = self.known.entry(image.id.clone()).or_insert(Known { first: now, used: now });
            if in_use.contains(&image.id) {
                known.used = now;
            }
        }
    }

    /// The images to remove for so many bytes. Pure but for what is known.
    fn choose(&self, images: &[Image], in_use: &HashSet<String>, bytes: u64, now: Instant) -> Vec<String> {
        let mut free: Vec<(&Image, Known)> = images
            .iter()
            .filter(|image| !image.pinned && !in_use.contains(&image.id))
            .filter_map(|image| Some((image, *self.known.get(&image.id)?)))
            .filter(|(_, known)| now - known.first >= LEAST_AGE)
            .collect();
        free.sort_by(|(one, a), (other, b)| (a.used, a.first, &one.id).cmp(&(b.used, b.first, &other.id)));
        let mut chosen = Vec::new();
        let mut sum = 0_u64;
        for (image, _) in free {
            if sum >= bytes {
                break;
            }
            sum = sum.saturating_add(image.size);
            chosen.push(image.id.clone());
        }
        chosen
    }

    /// Looks at images and disk when it is time to.
    pub async fn look(&mut self, context: &Arc<Context>) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + LOOK_EVERY;
        let disk = machine::disk(&context.config.runtime.image_folder()).unwrap_or_default();
        self.free(context, to_free(&disk)).await;
    }

    /// Removes unused images for so many bytes, or all of them if they are not enough.
    pub async fn free(&mut self, context: &Arc<Context>, bytes: u64) {
        let now = Instant::now();
        let runtime = &context.config.runtime;
        let images = runtime.list_images().await;
        // Also ended containers may be looked at, and started again.
        let mut in_use = HashSet::new();
        for container in runtime.containers() {
            in_use.insert(container.image_id);
            in_use.extend(container.image_mounts.into_iter().map(|mount| mount.image));
        }
        self.note(&images, &in_use, now);
        if bytes == 0 {
            return;
        }
        let chosen = self.choose(&images, &in_use, bytes, now);
        let mut failed = Vec::new();
        for id in &chosen {
            match runtime.remove_image(id).await {
                Ok(()) => tracing::info!(image = id, "removed an unused image because the disk is full"),
                Err(error) => failed.push(chain(&error)),
            }
        }
        if !failed.is_empty() {
            let text = format!("failed to remove unused images: {}", failed.join("; "));
            context.events.node(&context.config.name, Severity::Warning, "ImageGCFailed", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64, pinned: bool) -> Image {
        Image { id: id.into(), tags: Vec::new(), digests: Vec::new(), size, config: Default::default(), pinned }
    }

    #[test]
    fn how_much_has_to_go() {
        let check = |available: u64, expected: u64| {
            assert_eq!(to_free(&Disk { size: 1000, available, ..Disk::default() }), expected, "{available}");
        };
        check(500, 0);
        check(151, 0);
        check(150, 50);
        check(0, 200);
        assert_eq!(to_free(&Disk::default()), 0);
    }

    #[test]
    fn the_longest_unused_go_first() {
        let begin = Instant::now();
        let at = |second: u64| begin + Duration::from_secs(second);
        let images =
            [image("old", 10, false), image("mid", 10, false), image("pinned", 10, true), image("used", 10, false)];
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        let mut garbage = ImageGarbage::new(begin);
        garbage.note(&images, &used(&["used", "mid"]), at(0));
        garbage.note(&images, &used(&["used", "mid"]), at(50));
        let choose = |garbage: &ImageGarbage, bytes: u64, second: u64| {
            garbage.choose(&images, &used(&["used"]), bytes, at(second)).join(" ")
        };
        assert_eq!(choose(&garbage, 100, 100), "", "all of them are new");
        assert_eq!(choose(&garbage, 5, 200), "old");
        assert_eq!(choose(&garbage, 11, 200), "old mid");
        assert_eq!(choose(&garbage, u64::MAX, 200), "old mid", "pinned and used ones stay");
        garbage.note(&images[1..], &used(&["used"]), at(210));
        assert_eq!(garbage.known.len(), 3, "what is gone is forgotten");
    }
}
