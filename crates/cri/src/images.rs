//! Images of the other runtime.

use std::time::Duration;

use kobune_runtime::{Auth, Image, ImageConfig, ImageError};
use tokio::time::Instant;

use crate::failure;
use crate::proto::Nothing;
use crate::proto::image::{self, AuthConfig, ImageRequest, ImageSpec, PullImageRequest};
use crate::runtime::Inner;

/// A list is good for this long unless something was pulled or removed.
const LIST_FOR: Duration = Duration::from_secs(60);

/// What the runtime was last known to have.
#[derive(Default)]
pub(crate) struct Known {
    images: Vec<Image>,
    until: Option<Instant>,
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), user_specified_image: String::new() })
}

/// An image as the runtime describes it. Pure.
fn read(image: image::Image) -> Image {
    // The uid is a wrapped number so that root can be told from nothing.
    let user = image.uid.map_or(image.username, |uid| uid.value.to_string());
    let own = image.repo_tags.iter().any(|tag| tag.starts_with("kobune.local/"));
    Image {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size: image.size,
        config: ImageConfig { user, ..ImageConfig::default() },
        // No registry has what was made here.
        pinned: image.pinned || own,
    }
}

impl Inner {
    /// The image of this id or name.
    pub(crate) async fn image_status(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let answer = self.calls.image_status(ImageRequest { image: spec(reference) }).await;
        let answer = answer.map_err(|status| ImageError::Remote(failure::text(&status)))?;
        // An image without an id could not be named to the runtime again.
        Ok(answer.image.filter(|image| !image.id.is_empty()).map(read))
    }

    /// All images; those of before when the runtime does not answer.
    pub(crate) async fn list_images(&self) -> Vec<Image> {
        {
            let known = self.images.lock();
            if known.until.is_some_and(|until| until > Instant::now()) {
                return known.images.clone();
            }
        }
        match self.calls.list_images(Nothing {}).await {
            Ok(answer) => {
                let images: Vec<Image> = answer.images.into_iter().map(read).collect();
                *self.images.lock() = Known { images: images.clone(), until: Some(Instant::now() + LIST_FOR) };
                images
            }
            Err(status) => {
                tracing::debug!("the container runtime does not list its images: {}", failure::text(&status));
                self.images.lock().images.clone()
            }
        }
    }

    /// Gets an image from its registry.
    pub(crate) async fn pull_image(&self, reference: &str, auth: Option<Auth>) -> Result<Image, ImageError> {
        let auth = auth.map(|auth| match auth {
            Auth::Basic { username, password } => AuthConfig { username, password, ..AuthConfig::default() },
            Auth::Bearer(registry_token) => AuthConfig { registry_token, ..AuthConfig::default() },
        });
        let failed = |cause: String| ImageError::Pull { reference: reference.to_owned(), cause };
        let answer = self.calls.pull_image(PullImageRequest { image: spec(reference), auth }).await;
        let answer = answer.map_err(|status| failed(failure::text(&status)))?;
        self.images.lock().until = None;
        let image = self.image_status(&answer.image_ref).await?;
        image.ok_or_else(|| failed(format!("the runtime does not know {:?}, which it pulled", answer.image_ref)))
    }

    /// Removes an image with all its names.
    pub(crate) async fn remove_image(&self, id: &str) -> Result<(), ImageError> {
        let answer = self.calls.remove_image(ImageRequest { image: spec(id) }).await;
        self.images.lock().until = None;
        failure::unless_gone(answer).map(drop).map_err(|error| ImageError::Remote(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Int64Value;

    #[test]
    fn users_and_pins() {
        let image = |uid: Option<i64>, username: &str, tag: &str| {
            read(image::Image {
                id: "sha256:1".into(),
                repo_tags: vec![tag.into()],
                uid: uid.map(|value| Int64Value { value }),
                username: username.into(),
                ..image::Image::default()
            })
        };
        assert_eq!(image(Some(0), "", "a").config.user, "0");
        assert_eq!(image(None, "www", "a").config.user, "www");
        assert!(image(None, "", "kobune.local/kobune:latest").pinned && !image(None, "", "docker.io/x:1").pinned);
    }
}
