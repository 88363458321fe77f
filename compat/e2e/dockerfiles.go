package e2e

import (
	"fmt"
	"strings"
)

// LongDockerfile is a Dockerfile of n steps on the base image, of which three in five are RUN, one is COPY and one COPY --link. They
// copy the file a.txt and the directory b of the context. What they do is the same for the same mark, and different for any other.
func LongDockerfile(n int, mark string) string {
	var b strings.Builder
	b.WriteString("FROM base\n")
	for i := range n {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "RUN [\"box\", \"write\", \"/made/%d\", \"%s %d\"]\n", i, mark, i)
		case 1:
			fmt.Fprintf(&b, "COPY a.txt /copied/%s/%d\n", mark, i)
		case 2:
			fmt.Fprintf(&b, "COPY --link b /linked/%s/%d/\n", mark, i)
		case 3:
			fmt.Fprintf(&b, "RUN --mount=type=cache,target=/cache/%s [\"box\", \"write\", \"/cache/%s/%d\", \"%d\"]\n", mark, mark, i, i)
		case 4:
			fmt.Fprintf(&b, "RUN [\"box\", \"remove\", \"/made/%d\"]\n", i-4)
		}
	}
	return b.String()
}

// CopyDockerfile is a Dockerfile of n steps on the base image that copy a.txt, so that no container is started.
func CopyDockerfile(n int, mark string) string {
	var b strings.Builder
	b.WriteString("FROM base\n")
	for i := range n {
		fmt.Fprintf(&b, "COPY a.txt /copied/%s/%d\n", mark, i)
	}
	return b.String()
}
