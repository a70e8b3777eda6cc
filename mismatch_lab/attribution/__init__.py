"""Attribution: from observations to a verdict, and (next) to named causes."""
