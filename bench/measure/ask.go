package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"

	"github.com/pkg/errors"
)

// Ask runs this program in a process of its own, with the request as JSON in the environment variable env, and reads its answer, JSON as
// well, from what it prints. What it writes to stderr becomes part of the error if it fails.
func Ask(ctx context.Context, env string, request, answer any) error {
	dt, err := json.Marshal(request)
	if err != nil {
		return errors.WithStack(err)
	}
	self, err := os.Executable()
	if err != nil {
		return errors.WithStack(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), env+"="+string(dt))
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return errors.Wrapf(err, "%s", bytes.TrimSpace(stderr.Bytes()))
	}
	return errors.Wrap(json.Unmarshal(out, answer), "reading the figures")
}
