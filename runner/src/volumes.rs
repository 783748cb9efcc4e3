//! Directories behind a pod's volumes: `DATA/volumes/UID/NAME`. All of them go when the pod is forgotten.
//!
//! Files made of ConfigMaps, Secrets and the pod's own fields are replaced one by one, each by a rename, so that a
//! guest reads an old or a new file and never half of one. A volume's directory stays the same for the life of the pod,
//! because guests hold it open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use coracle_agent::{MountGrant, Problem, Volume, VolumeSource};
use coracle_engine::Mount;

use crate::files;

/// Where temporary files of a pod lie; a volume cannot have this name (names of volumes are DNS labels).
const TEMP: &str = ".tmp";
/// Where directories lie that show single files of volumes (`subPath` of a file).
const SINGLE: &str = ".files";

/// Makes and removes volumes. Blocking; call it off the runtime's threads.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    /// Directories that `hostPath` may lie in.
    host_paths: Vec<PathBuf>,
}

impl Volumes {
    pub fn new(root: PathBuf, host_paths: Vec<PathBuf>) -> Self {
        Self { root, host_paths }
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.root.join(uid)
    }

    /// Makes every volume of a pod; what is there already is brought up to date, an emptyDir keeps its content.
    pub fn make(&self, uid: &str, volumes: &[Volume]) -> Result<(), Problem> {
        let pod = self.pod(uid);
        fs::create_dir_all(pod.join(TEMP)).map_err(|e| disk("made", &e))?;
        // What guests write is nobody else's on this machine.
        fs::set_permissions(&pod, fs::Permissions::from_mode(0o700))
            .map_err(|e| disk("made", &e))?;
        volumes.iter().try_for_each(|v| self.update(uid, v))
    }

    /// Makes one volume, or brings it up to date.
    pub fn update(&self, uid: &str, volume: &Volume) -> Result<(), Problem> {
        let pod = self.pod(uid);
        let dir = pod.join(&volume.name);
        match &volume.source {
            VolumeSource::Empty { .. } => fs::create_dir_all(&dir).map_err(|e| disk("made", &e)),
            VolumeSource::Files(content) => {
                fs::create_dir_all(&dir).map_err(|e| disk("made", &e))?;
                fill(&dir, &pod.join(TEMP), content).map_err(|e| disk("written", &e))
            }
            VolumeSource::Host { path, kind } => self.host(path, kind).map(drop),
        }
    }

    /// A directory of the machine, if the policy allows it.
    fn host(&self, path: &str, kind: &str) -> Result<PathBuf, Problem> {
        let denied = |why: String| {
            Problem::new(
                "E_HOST_PATH_DENIED",
                why,
                "Use an emptyDir, or allow the directory with --host-path on the node",
            )
        };
        if kind == "DirectoryOrCreate" {
            // Checked before anything is made, on the path as written: a `..` is refused outright.
            let clean = Path::new(path)
                .components()
                .all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            if clean
                && self
                    .host_paths
                    .iter()
                    .any(|allowed| Path::new(path).starts_with(allowed))
            {
                fs::create_dir_all(path).map_err(|e| disk("made", &e))?;
            }
        }
        let real = fs::canonicalize(path)
            .map_err(|e| denied(format!("hostPath {path} cannot be used: {e}")))?;
        if !real.is_dir() {
            return Err(denied(format!("hostPath {path} is not a directory")));
        }
        let allowed = |dir: &PathBuf| fs::canonicalize(dir).is_ok_and(|dir| real.starts_with(dir));
        if self.host_paths.iter().any(allowed) {
            Ok(real)
        } else {
            Err(denied(format!(
                "hostPath {path} is outside of what this node allows"
            )))
        }
    }

    /// What a container sees: a directory for each mount. A mount of a single file becomes a directory that holds only
    /// that file, shown where the file's directory would be, because guests are given directories.
    pub fn mounts(
        &self,
        uid: &str,
        container: &str,
        grants: &[MountGrant],
        volumes: &[Volume],
    ) -> Result<Vec<Mount>, Problem> {
        let mut mounts = Vec::new();
        let mut single: BTreeMap<String, (PathBuf, bool)> = BTreeMap::new();
        for (i, grant) in grants.iter().enumerate() {
            let source = volumes
                .iter()
                .find(|v| v.name == grant.volume)
                .map(|v| &v.source);
            let base = match source {
                Some(VolumeSource::Host { path, kind }) => self.host(path, kind)?,
                _ => self.pod(uid).join(&grant.volume),
            };
            let path = if grant.sub_path.is_empty() {
                base.clone()
            } else {
                base.join(&grant.sub_path)
            };
            if !grant.sub_path.is_empty() {
                inside(&base, &path)?;
            }
            if path.is_file() {
                let (parent, name) = match grant.path.trim_end_matches('/').rsplit_once('/') {
                    Some(("", name)) => ("/", name),
                    Some((parent, name)) => (parent, name),
                    None => {
                        return Err(bad_mount(format!(
                            "mountPath {} is not absolute",
                            grant.path
                        )));
                    }
                };
                let place = self
                    .pod(uid)
                    .join(SINGLE)
                    .join(container)
                    .join(i.to_string());
                let (dir, _) = single
                    .entry(parent.to_string())
                    .or_insert((place, grant.read_only));
                fs::create_dir_all(&*dir).map_err(|e| disk("made", &e))?;
                files::remove_file(&dir.join(name)).map_err(|e| disk("made", &e))?;
                // A hard link shows the same file, so that writes reach the volume; content files are replaced by
                // rename and stay as they were at the start, as in Kubernetes.
                fs::hard_link(&path, dir.join(name)).map_err(|e| disk("made", &e))?;
                continue;
            }
            if !grant.sub_path.is_empty() {
                fs::create_dir_all(&path).map_err(|e| disk("made", &e))?;
            }
            mounts.push(Mount {
                host_path: path,
                guest_path: grant.path.clone(),
                read_only: grant.read_only,
            });
        }
        for (guest_path, (host_path, read_only)) in single {
            mounts.push(Mount {
                host_path,
                guest_path,
                read_only,
            });
        }
        Ok(mounts)
    }

    /// Removes a pod's volumes.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        files::remove_dir(&self.pod(uid))
    }

    /// Removes volumes of pods that are not in the set: left behind by a runner that was not there when they went.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if !entry
                .file_name()
                .to_str()
                .is_some_and(|uid| keep.contains(uid))
            {
                files::remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Writes the files and removes what is not among them.
fn fill(dir: &Path, temp: &Path, content: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for (name, bytes) in content {
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|old| old == *bytes) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        files::replace(&path, temp, bytes)?;
    }
    remove_others(dir, dir, content).map(drop)
}

/// Returns whether the directory is empty afterwards.
fn remove_others(root: &Path, dir: &Path, keep: &BTreeMap<String, Vec<u8>>) -> io::Result<bool> {
    let mut empty = true;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if remove_others(root, &path, keep)? {
                fs::remove_dir(&path)?;
            } else {
                empty = false;
            }
            continue;
        }
        let name = path
            .strip_prefix(root)
            .ok()
            .and_then(Path::to_str)
            .unwrap_or_default();
        if keep.contains_key(name) {
            empty = false;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(empty)
}

/// Refuses a path whose symbolic links lead out of the volume: a guest may have made them.
fn inside(base: &Path, path: &Path) -> Result<(), Problem> {
    let mut existing = path;
    while !existing.exists() {
        match existing.parent() {
            Some(parent) => existing = parent,
            None => break,
        }
    }
    let real = fs::canonicalize(existing).map_err(|e| disk("opened", &e))?;
    let base = fs::canonicalize(base).map_err(|e| disk("opened", &e))?;
    if real.starts_with(base) {
        Ok(())
    } else {
        Err(bad_mount(format!(
            "subPath {} leads out of the volume",
            path.display()
        )))
    }
}

fn bad_mount(why: String) -> Problem {
    Problem::new("E_MOUNT", why, "Correct the container's volumeMounts")
}

fn disk(what: &str, error: &io::Error) -> Problem {
    Problem::new(
        "E_VOLUME_IO",
        format!("a volume could not be {what}: {error}"),
        "Free space in the node's data directory and check its permissions",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(pairs: &[(&str, &str)]) -> VolumeSource {
        VolumeSource::Files(
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.as_bytes().to_vec()))
                .collect(),
        )
    }

    fn volume(name: &str, source: VolumeSource) -> Volume {
        Volume {
            name: name.into(),
            source,
        }
    }

    fn grant(volume: &str, sub_path: &str, path: &str) -> MountGrant {
        MountGrant {
            volume: volume.into(),
            sub_path: sub_path.into(),
            path: path.into(),
            read_only: false,
        }
    }

    #[test]
    fn files_follow_their_object_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let v = Volumes::new(dir.path().into(), Vec::new());
        v.make("u", &[volume("c", content(&[("a", "1"), ("d/b", "2")]))])
            .unwrap();
        let at = dir.path().join("u/c");
        assert_eq!(fs::read_to_string(at.join("d/b")).unwrap(), "2");
        v.update("u", &volume("c", content(&[("a", "new")])))
            .unwrap();
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "new");
        assert!(
            !at.join("d").exists(),
            "what is not in the object any more is gone"
        );
        v.remove("u").unwrap();
        assert!(!dir.path().join("u").exists());
        v.remove("u").unwrap();
    }

    #[test]
    fn an_empty_dir_keeps_its_content_when_it_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let v = Volumes::new(dir.path().into(), Vec::new());
        let volumes = [volume(
            "e",
            VolumeSource::Empty {
                size_limit_bytes: None,
            },
        )];
        v.make("u", &volumes).unwrap();
        fs::write(dir.path().join("u/e/x"), "1").unwrap();
        v.make("u", &volumes).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("u/e/x")).unwrap(), "1");
    }

    #[test]
    fn host_paths_need_permission() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = dir.path().join("ok");
        fs::create_dir(&allowed).unwrap();
        let host = |path: &Path| {
            volume(
                "h",
                VolumeSource::Host {
                    path: path.display().to_string(),
                    kind: String::new(),
                },
            )
        };
        let v = Volumes::new(dir.path().join("v"), vec![allowed.clone()]);
        assert!(v.make("u", &[host(&allowed)]).is_ok());
        assert_eq!(
            v.make("u", &[host(dir.path())]).unwrap_err().code,
            "E_HOST_PATH_DENIED"
        );
        assert_eq!(
            v.make("u", &[host(&allowed.join("../v"))])
                .unwrap_err()
                .code,
            "E_HOST_PATH_DENIED"
        );
        let none = Volumes::new(dir.path().join("v"), Vec::new());
        assert_eq!(
            none.make("u", &[host(&allowed)]).unwrap_err().code,
            "E_HOST_PATH_DENIED"
        );
    }

    #[test]
    fn a_single_file_is_shown_in_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let v = Volumes::new(dir.path().into(), Vec::new());
        let volumes = [
            volume("c", content(&[("a", "1"), ("b", "2")])),
            volume(
                "e",
                VolumeSource::Empty {
                    size_limit_bytes: None,
                },
            ),
        ];
        v.make("u", &volumes).unwrap();
        let mounts = v
            .mounts(
                "u",
                "web",
                &[
                    grant("c", "a", "/etc/app/a.conf"),
                    grant("e", "sub/x", "/data"),
                    grant("c", "", "/all"),
                ],
                &volumes,
            )
            .unwrap();
        let paths: Vec<_> = mounts.iter().map(|m| m.guest_path.as_str()).collect();
        assert_eq!(paths, ["/data", "/all", "/etc/app"]);
        assert_eq!(
            fs::read_to_string(mounts[2].host_path.join("a.conf")).unwrap(),
            "1"
        );
        assert_eq!(fs::read_dir(&mounts[2].host_path).unwrap().count(), 1);
        assert!(mounts[0].host_path.ends_with("u/e/sub/x"));
    }

    #[test]
    fn a_sub_path_cannot_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let v = Volumes::new(dir.path().into(), Vec::new());
        let volumes = [volume(
            "e",
            VolumeSource::Empty {
                size_limit_bytes: None,
            },
        )];
        v.make("u", &volumes).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("u/e/out")).unwrap();
        assert_eq!(
            v.mounts("u", "c", &[grant("e", "out/etc", "/x")], &volumes)
                .unwrap_err()
                .code,
            "E_MOUNT"
        );
    }

    #[test]
    fn volumes_of_unknown_pods_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let v = Volumes::new(dir.path().into(), Vec::new());
        v.make("a", &[]).unwrap();
        v.make("b", &[]).unwrap();
        v.sweep(&["b".to_string()].into()).unwrap();
        assert!(!dir.path().join("a").exists() && dir.path().join("b").exists());
    }
}
