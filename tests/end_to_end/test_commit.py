"""cmake/commit.cmake: which sources a program was built from."""
import re
import shutil
import subprocess

from conftest import ROOT


def git(folder, *words):
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e", *words], check=True, capture_output=True)


def written(tree):
    file = tree.parent / "commit.cpp"
    subprocess.run(["cmake", f"-DSOURCE={tree}", f"-DOUTPUT={file}", "-P", str(ROOT / "cmake" / "commit.cmake")], check=True)
    return file, re.search(r'return "(.*)"', file.read_text())[1]


def test_the_commit_is_of_what_is_compiled_and_says_where_files_differ(tmp_path):
    tree = tmp_path / "tree"
    (tree / "src").mkdir(parents=True)
    (tree / "src" / "a.cpp").write_text("1")
    assert written(tree)[1] == "unknown"
    git(tree, "init", "-q")
    assert written(tree)[1] == "unknown", "no commit yet"
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "one")
    file, first = written(tree)
    assert re.fullmatch("[0-9a-f]{12}", first)
    before = file.stat().st_mtime_ns
    (tree / "page.md").write_text("a page")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "a page")
    assert written(tree)[1] == first and file.stat().st_mtime_ns == before, "no other program: nothing to compile"
    (tree / "src" / "a.cpp").write_text("2")
    assert written(tree)[1] == first + "-dirty"
    git(tree, "commit", "-q", "-a", "-m", "two")
    (tree / "src" / "new.cpp").write_text("3")
    second = written(tree)[1]
    assert second.endswith("-dirty") and not second.startswith(first)
    shutil.copytree(tree / "src", tree / "inside" / "src")
    assert written(tree / "inside")[1] == "unknown", "another repository's"
