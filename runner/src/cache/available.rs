//! The memory that the system can still give to this process: what is free on the machine, or in the
//! control group that limits the process most. Batch systems and containers put a process into a group
//! below the root's, and any group above it may be the tighter one.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Assumed if the system does not report it.
const FALLBACK: usize = 8 << 30;

/// Available memory in bytes.
pub fn available_memory() -> usize {
    below(Path::new("/")).unwrap_or(FALLBACK)
}

/// Returns the available memory, read from the files of a Linux system whose root folder is `root`.
/// Tests pass a folder of their own.
fn below(root: &Path) -> Option<usize> {
    let machine = || value_of(&root.join("proc/meminfo"), "MemAvailable:")?.checked_mul(1 << 10);
    let groups = groups(root).unwrap_or_default();
    let groups = groups
        .iter()
        .filter_map(|(version, folder)| left(version, folder));
    // The tightest bound counts: a limit above the free memory of the machine promises nothing.
    groups.chain(machine()).min()
}

/// The names that a version of control groups gives to the files and keys that are read here.
struct Version {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` for files in memory that were not used lately.
    inactive_file: &'static str,
}

const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file",
};

const V2: Version = Version {
    limit: "memory.max",
    used: "memory.current",
    inactive_file: "inactive_file",
};

/// The folders of the groups that limit this process: its own and all above it, of either version.
fn groups(root: &Path) -> Option<Vec<(Version, PathBuf)>> {
    let memberships = read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mut groups = Vec::new();
    for line in mounts.lines() {
        // `36 25 0:32 /mounted /place rw - type source options`; optional fields may come before the dash.
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let (place, kind): (Vec<_>, Vec<_>) =
            (place.split(' ').collect(), kind.split(' ').collect());
        let (&[_, _, _, mounted, place, ..], &[kind, _, options, ..]) = (&place[..], &kind[..])
        else {
            continue;
        };
        // `4:memory,cpu:/path` for a hierarchy of version 1, `0::/path` for version 2.
        let member = |controller: &str| {
            memberships.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let controllers = fields.next()?;
                controllers
                    .split(',')
                    .any(|c| c == controller)
                    .then_some(fields.next()?)
            })
        };
        let (version, path) = match kind {
            "cgroup2" => (V2, member("")),
            "cgroup" if options.split(',').any(|option| option == "memory") => {
                (V1, member("memory"))
            }
            _ => continue,
        };
        // A hierarchy can be mounted without this process being in it.
        let Some(path) = path else { continue };
        // In a container the mount may be the process's own group, which the path does not know.
        let own = Path::new(path)
            .strip_prefix(mounted)
            .unwrap_or(Path::new(""));
        let top = root.join(place.trim_start_matches('/'));
        let folder = top.join(own);
        // A limit holds for everything below it, so that the groups above the own one count as
        // well.
        let chain = folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&top));
        groups.extend(chain.map(|folder| (Version { ..version }, folder.to_owned())));
    }
    Some(groups)
}

/// Returns the bytes that a group can still take; `None` if it has no limit.
fn left(version: &Version, folder: &Path) -> Option<usize> {
    let number = |name: &str| {
        let text = read_to_string(folder.join(name)).ok()?;
        text.trim().parse::<usize>().ok()
    };
    // Version 2 writes `max` for no limit, which does not parse: such a group sets no bound.
    let (limit, used) = (number(version.limit)?, number(version.used)?);
    // Read files stay in memory and count, but the system drops them when it needs room.
    let dropped = value_of(&folder.join("memory.stat"), version.inactive_file);
    let used = used.saturating_sub(dropped.unwrap_or(0));
    Some(limit.saturating_sub(used))
}

/// The number beside a key in a file with one pair on each line.
fn value_of(path: &Path, key: &str) -> Option<usize> {
    let text = read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? != key {
            return None;
        }
        words.next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNT: &str =
        "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory";
    const V2_MOUNT: &str =
        "30 23 0:27 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       4000 kB\nMemAvailable:   2000 kB\n",
    );

    /// Available bytes on a system with these files.
    fn available(files: &[(&str, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        below(root.path())
    }

    #[test]
    fn without_groups_the_machine_counts() {
        assert_eq!(available(&[]), None);
        assert_eq!(available(&[MACHINE]), Some(2000 << 10));
        let unlimited = [
            MACHINE,
            ("proc/self/cgroup", "0::/user.slice\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/user.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "5\n"),
        ];
        assert_eq!(available(&unlimited), Some(2000 << 10));
    }

    #[test]
    fn the_tightest_group_above_the_process_counts() {
        let job = |own: &str, above: &str| {
            available(&[
                MACHINE,
                ("proc/self/cgroup", "0::/slurm/job_7/step_0\n"),
                ("proc/self/mountinfo", V2_MOUNT),
                ("sys/fs/cgroup/slurm/job_7/step_0/memory.max", own),
                ("sys/fs/cgroup/slurm/job_7/step_0/memory.current", "100\n"),
                ("sys/fs/cgroup/slurm/job_7/memory.max", above),
                ("sys/fs/cgroup/slurm/job_7/memory.current", "300\n"),
            ])
        };
        assert_eq!(job("1000\n", "max\n"), Some(900));
        assert_eq!(job("max\n", "1000\n"), Some(700));
        assert_eq!(job("1000\n", "1100\n"), Some(800));
        assert_eq!(job("99\n", "max\n"), Some(0));
        assert_eq!(job("9000000\n", "max\n"), Some(2000 << 10));
    }

    #[test]
    fn a_container_may_see_its_own_group_as_the_root() {
        let namespace = [
            MACHINE,
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "400\n"),
        ];
        assert_eq!(available(&namespace), Some(600));
        // Version 1 mounts the group, but the path is that of the host.
        let mount = V1_MOUNT.replace(" / ", " /docker/1a2b ");
        let mounted = [
            MACHINE,
            (
                "proc/self/cgroup",
                "5:cpu:/docker/1a2b\n4:memory:/docker/1a2b\n0::/\n",
            ),
            ("proc/self/mountinfo", &mount),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "400\n"),
        ];
        assert_eq!(available(&mounted), Some(600));
    }

    #[test]
    fn groups_of_version_1_are_nested_too() {
        let mounts = format!(
            "{V1_MOUNT}\n{}",
            V2_MOUNT.replace("/cgroup ", "/cgroup/unified ")
        );
        let job = [
            MACHINE,
            (
                "proc/self/cgroup",
                "4:memory,hugetlb:/slurm/job_7\n1:cpu:/\n0::/\n",
            ),
            ("proc/self/mountinfo", &mounts),
            (
                "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            (
                "sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes",
                "100\n",
            ),
            ("sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/slurm/memory.usage_in_bytes", "300\n"),
        ];
        assert_eq!(available(&job), Some(700));
    }

    #[test]
    fn files_that_the_system_can_drop_are_available() {
        let job = [
            MACHINE,
            ("proc/self/cgroup", "0::/job\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/job/memory.max", "1000\n"),
            ("sys/fs/cgroup/job/memory.current", "900\n"),
            (
                "sys/fs/cgroup/job/memory.stat",
                "anon 300\ninactive_file 500\nactive_file 100\n",
            ),
        ];
        assert_eq!(available(&job), Some(600));
    }
}
