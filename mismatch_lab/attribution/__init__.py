"""Attribution: from a mismatch to its causes. README.md beside this file is the way in."""
