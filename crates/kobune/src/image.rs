//! `kobune image`: through the kobune that runs on the data folder, or on the folder itself when none does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kobune_runtime::Runtime;

use crate::admin::{self, Answer, Listed, Request};
use crate::cli::ImageCommand;
use crate::instance;
use crate::settings::Names;

/// Carries out an image command.
pub fn run(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Load { instance, archive } => {
            let names = Names::of(&instance.data_dir)?;
            let staged = (archive == Path::new("-")).then(|| stage_input(&names.data_dir)).transpose()?;
            let path = match &staged {
                Some(path) => path.clone(),
                None => std::path::absolute(&archive)?,
            };
            let answer = perform(&names, Request::Load(path));
            if let Some(path) = staged {
                std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
            print_names("loaded", answer?)
        }
        ImageCommand::Pull { instance, reference } => {
            eprintln!("pulling {reference}");
            print_names("pulled", perform(&Names::of(&instance.data_dir)?, Request::Pull(reference))?)
        }
        ImageCommand::Ls { instance, json } => match perform(&Names::of(&instance.data_dir)?, Request::List)? {
            Answer::Images(images) if json => {
                println!("{}", serde_json::to_string_pretty(&images)?);
                Ok(())
            }
            Answer::Images(images) => {
                print!("{}", table(&images));
                Ok(())
            }
            other => bail!("kobune answered something else: {other:?}"),
        },
        ImageCommand::Rm { instance, references } => {
            let names = Names::of(&instance.data_dir)?;
            for reference in references {
                perform(&names, Request::Remove(reference.clone()))?;
                println!("removed {reference}");
            }
            Ok(())
        }
    }
}

fn print_names(done: &str, answer: Answer) -> Result<()> {
    let Answer::Names(names) = answer else { bail!("kobune answered something else: {answer:?}") };
    for name in names {
        println!("{done} {name}");
    }
    Ok(())
}

/// Puts standard input into a file that another process can read.
fn stage_input(data_dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("make {}", data_dir.display()))?;
    let path = data_dir.join(format!("input-{}.tar", std::process::id()));
    let mut file = std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
    std::io::copy(&mut std::io::stdin().lock(), &mut file).context("read standard input")?;
    Ok(path)
}

fn perform(names: &Names, request: Request) -> Result<Answer> {
    if let Some(answer) = admin::ask(&names.data_dir, &request)? {
        return Ok(answer);
    }
    let _instance = instance::take(&names.data_dir)?;
    crate::process::offline(async {
        let runtime = Runtime::open(names.runtime()).await.context("open the container runtime")?;
        admin::perform(runtime.images(), request).await
    })
}

fn table(images: &[Listed]) -> String {
    let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        for name in &image.names {
            rows.push([name.clone(), id.clone(), size(image.size)]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    rows.iter().map(|[name, id, size]| format!("{name:first$}   {id:second$}   {size}\n")).collect()
}

/// Bytes as people read them, in powers of a thousand as registries do.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_tables() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_500), "1.5 kB");
        assert_eq!(size(27_340_000), "27.3 MB");
        assert_eq!(size(5_000_000_000_000), "5000.0 GB");
        let images = [Listed {
            id: "sha256:0123456789abcdef".to_owned(),
            names: vec!["docker.io/library/busybox:1.37".to_owned()],
            size: 2_000,
        }];
        assert_eq!(
            table(&images),
            "IMAGE                            ID             SIZE\ndocker.io/library/busybox:1.37   0123456789ab   2.0 kB\n"
        );
    }
}
