"""The directory for SSD, on real filesystems, with real rights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from greencache.service.doctor.disk import check_ssd, filesystem_of
from greencache.service.doctor.finding import Finding, Verdict
from tests.conformance.prompts import prompt
from tests.tiers.caches import cache_in, store

MEMORY = Path("/dev/shm")


def found(path: Path, wanted_bytes: int = 1 << 20) -> dict[str, Finding]:
    findings = list(check_ssd(path, wanted_bytes))
    assert len({each.check for each in findings}) == len(findings)
    return {each.check: each for each in findings}


def only(path: Path) -> Finding:
    (finding,) = check_ssd(path, 1 << 20)
    return finding


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    if filesystem_of(tmp_path) not in ("ext4", "xfs", "btrfs"):
        pytest.skip("temporary files are on no local disk here")
    path = tmp_path / "kv"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def memory() -> Iterator[Path]:
    if not MEMORY.is_dir() or filesystem_of(MEMORY) != "tmpfs":
        pytest.skip("there is no tmpfs here")
    path = Path(tempfile.mkdtemp(dir=MEMORY))
    yield path
    shutil.rmtree(path)


def test_a_directory_on_a_disk_is_well_and_left_as_it_was(disk: Path) -> None:
    findings = found(disk)
    assert {each.verdict for each in findings.values()} == {Verdict.OK}
    assert set(findings) == {
        "SSD directory",
        "SSD filesystem",
        "SSD space",
        "SSD direct I/O",
        "SSD room",
    }
    assert list(disk.iterdir()) == []


def test_one_that_is_missing_is_to_be_made_and_is_not_made(disk: Path) -> None:
    path = disk / "a" / "b"
    findings = found(path)
    assert findings["SSD directory"].text == f"{path}, to be made"
    assert findings["SSD direct I/O"].verdict is Verdict.OK
    assert not path.parent.exists()


def test_memory_is_no_disk(memory: Path) -> None:
    finding = found(memory)["SSD filesystem"]
    assert (finding.verdict, finding.text) == (Verdict.FAIL, "tmpfs: this is memory, no disk")


def test_what_the_tier_would_refuse_fails(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert only(open_to_all).verdict is Verdict.FAIL
    assert only(open_to_all).advice.startswith(f"chmod 700 {open_to_all}")
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "symbolic link" in only(link).text
    file = tmp_path / "file"
    file.touch()
    assert "no directory" in only(file).text
    assert "no directory" in only(file / "below").text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_directory_fails(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    assert "belongs to user 12345" in only(tmp_path).text


def test_where_nothing_can_be_made_it_says_so() -> None:
    findings = found(Path("/proc/greencache"))
    failed = [each for each in findings.values() if each.verdict is Verdict.FAIL]
    assert failed
    assert all(each.advice for each in failed)


def test_room_is_counted_with_what_the_tier_has(disk: Path) -> None:
    usage = shutil.disk_usage(disk)
    too_much = found(disk, usage.total + 1)["SSD room"]
    assert too_much.verdict is Verdict.FAIL
    assert "GREENCACHE_SERVE__SSD" in too_much.advice
    if usage.used > usage.total // 100:
        assert found(disk, usage.total)["SSD room"].verdict is Verdict.WARN


async def test_a_directory_in_use_is_well_too(disk: Path) -> None:
    async with cache_in(disk, None, 16) as cache:
        await store(cache, prompt(*range(8)))
        assert {each.verdict for each in found(disk).values()} == {Verdict.OK}
        assert cache.stats().tiers["ssd"].blocks == 8


def test_the_filesystem_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    here = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:40 / {here}/a\\040b rw,noatime shared:3 - nfs4 server:/x rw\n"
        f"3 1 0:41 / {here}/over rw - ext4 /dev/sdb rw\n"
        f"4 1 0:42 / {here}/over rw - fuse.sshfs x rw\n"
    )
    assert filesystem_of(tmp_path, mounts) == "ext4"
    assert filesystem_of(tmp_path / "a b" / "c", mounts) == "nfs4"
    assert filesystem_of(tmp_path / "over", mounts) == "fuse.sshfs"
