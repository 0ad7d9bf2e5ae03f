"""An image of a Bento: built, looked into, started and asked, by docker, podman or buildah."""
