package pkcs11

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// A Config says where the root is.
type Config struct {
	// Module is the absolute path of the HSM vendor's library.
	Module string

	// Token is the label of the token in it. Two tokens with one label are
	// refused.
	Token string

	// PINFile holds the PIN of the token's user, and perhaps a line break. It is
	// refused if others than its owner may use it.
	PINFile string

	// State is the folder with the certificates of the keys. Nothing in it is
	// secret, but it is refused if others than its owner may use it.
	State string

	// Helper is the absolute path of the program brevetd-pkcs11. If empty it is
	// beside the running program. It is never searched for.
	Helper string

	// Env names the environment variables that the vendor's library needs. It
	// gets these and SOFTHSM2_CONF, those that are set, and no other.
	Env []string

	answer time.Duration // how long one request may take; 0 for answerTime
}

// validate reports what is wrong with a configuration, all of it.
func (c *Config) validate() error {
	var errs []error
	for _, f := range []struct{ name, value string }{{"module", c.Module}, {"helper", c.Helper}} {
		if f.value != "" && !filepath.IsAbs(f.value) {
			errs = append(errs, fmt.Errorf("%s: %s is not an absolute path", f.name, f.value))
		}
	}
	for _, f := range []struct{ name, value string }{{"module", c.Module}, {"token", c.Token}, {"pin_file", c.PINFile}, {"state", c.State}} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s is missing", f.name))
		}
	}
	if len(c.Token) > maxLabel {
		errs = append(errs, fmt.Errorf("token: a label has at most %d bytes", maxLabel))
	}
	for _, name := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			errs = append(errs, fmt.Errorf("env: %q is not the name of a variable", name))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("configuring the HSM: %w", errors.Join(errs...))
	}
	return nil
}

const (
	maxLabel = 32  // bytes: CK_TOKEN_INFO
	maxPIN   = 255 // bytes; PKCS#11 has no bound, tokens have less
)

// helperName is the program that loads the library.
const helperName = "brevetd-pkcs11"

// helper returns the path of the helper program.
func (c *Config) helper() (string, error) {
	path := c.Helper
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("finding out where this program is: %w", err)
		}
		path = filepath.Join(filepath.Dir(self), helperName)
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("there is no program %s, which loads the HSM's library: install it from the same build as brevetd, beside it (make build makes both)", path)
	}
	return path, nil
}

// environment is all that the vendor's library gets to see.
func (c *Config) environment() []string {
	env := []string{}
	for _, name := range append([]string{"SOFTHSM2_CONF"}, c.Env...) {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// readPIN reads the PIN. Errors are not [fs.ErrNotExist], which speaks of State.
func (c *Config) readPIN() (wire.Secret, error) {
	data, err := keys.ReadPrivate(c.PINFile, maxPIN+len("\r\n"))
	if err != nil {
		return wire.Secret{}, fmt.Errorf("reading the PIN: %v", err)
	}
	pin := bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(pin) == 0 || len(pin) > maxPIN {
		clear(data)
		return wire.Secret{}, fmt.Errorf("reading the PIN: %s holds %d bytes; a PIN has 1 to %d", c.PINFile, len(pin), maxPIN)
	}
	return wire.NewSecret(pin), nil
}

// refusal is the file that remembers the PIN that was refused, so that a service
// manager that starts brevetd again and again does not lock the token. It holds
// when PINFile had been changed last, in nanoseconds of Unix time.
func (c *Config) refusal() string { return filepath.Join(c.State, "pin-refused") }

func (c *Config) changed() (string, error) {
	info, err := os.Stat(c.PINFile)
	if err != nil {
		return "", fmt.Errorf("reading the PIN: %v", err)
	}
	return strconv.FormatInt(info.ModTime().UnixNano(), 10), nil
}

// untried returns [ErrPIN] if the PIN in PINFile was refused before.
func (c *Config) untried() error {
	refused, err := os.ReadFile(c.refusal())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading which PIN was refused: %v", err)
	}
	now, err := c.changed()
	if err != nil {
		return err
	}
	if string(refused) == now {
		return fmt.Errorf("%w: it did before, and %s has not changed since; correct it, or remove %s to have it tried again", ErrPIN, c.PINFile, c.refusal())
	}
	return nil
}

// remember notes that the PIN in PINFile was refused.
func (c *Config) remember() error {
	now, err := c.changed()
	if err == nil {
		err = os.WriteFile(c.refusal(), []byte(now), 0o600)
	}
	if err != nil {
		return fmt.Errorf("noting that the PIN was refused: %v", err)
	}
	return nil
}

// forget takes back what remember noted of another PIN.
func (c *Config) forget() error {
	if _, err := os.Lstat(c.refusal()); errors.Is(err, fs.ErrNotExist) {
		return nil // State may be read-only
	}
	if err := os.Remove(c.refusal()); err != nil {
		return fmt.Errorf("forgetting that a PIN was refused: %v", err)
	}
	return nil
}

const (
	certificateBlock = "CERTIFICATE"
	maxState         = 16 << 10 // bytes; two certificates take about 1 200
)

// file is the one with both certificates: the root's, then the agreement key's.
func (c *Config) file() string { return filepath.Join(c.State, "root.pem") }

// vacant makes State, and returns [fs.ErrExist] if there is a root in it.
func (c *Config) vacant() error {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("making the folder for the certificates: %v", err) // %v: not ErrExist, which speaks of a root
	}
	if err := c.checkState(); err != nil {
		return err
	}
	_, err := os.Lstat(c.file())
	if err == nil {
		return fmt.Errorf("%s is there already: a root is never overwritten: %w", c.file(), fs.ErrExist)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for certificates: %w", err)
	}
	return nil
}

// checkState refuses a folder that others may use: who can replace certificates
// can replace the root by an older one.
func (c *Config) checkState() error {
	info, err := os.Stat(c.State)
	if err != nil {
		return fmt.Errorf("reading the certificates of the root: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("reading the certificates of the root: %s is not a folder", c.State)
	}
	if err := keys.CheckMode(c.State, info, "700"); err != nil {
		return fmt.Errorf("reading the certificates of the root: %w", err)
	}
	return nil
}

// readCertificates reads what writeCertificates wrote.
func (c *Config) readCertificates() (*certificates, error) {
	if err := c.checkState(); err != nil {
		return nil, err
	}
	f, err := os.Open(c.file())
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of the root: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of the root: %w", err)
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of the root in %s: %w", c.file(), err)
	}
	return certs, nil
}

func parseCertificates(data []byte) (*certificates, error) {
	first, rest := pem.Decode(data)
	second, rest := pem.Decode(rest)
	if first == nil || second == nil || first.Type != certificateBlock || second.Type != certificateBlock || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want two PEM blocks CERTIFICATE, of the root and of its agreement key, and nothing else")
	}
	certs := &certificates{}
	var err error
	if certs.root, err = trust.ParseRoot(first.Bytes); err != nil {
		return nil, err
	}
	// Not now but when it began: whether the root has ended is for its users.
	certs.agreement, certs.agreementKey, err = trust.ParseAgreement(second.Bytes, certs.root, certs.root.NotBefore)
	if err != nil {
		return nil, err
	}
	return certs, nil
}

// writeCertificates writes a new file durably; one that it could not write
// wholly is removed again.
func (c *Config) writeCertificates(certs *certificates) error {
	var out bytes.Buffer
	for _, der := range [][]byte{certs.root.Raw, certs.agreement.Raw} {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der}))
	}
	f, err := os.OpenFile(c.file(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the certificates of the root: %w", err)
	}
	_, err = f.Write(out.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close(), keys.SyncDir(c.State)); err != nil {
		return fmt.Errorf("writing the certificates of the root: %w", errors.Join(err, os.Remove(c.file())))
	}
	return nil
}

func (c *Config) removeCertificates() error {
	if err := os.Remove(c.file()); err != nil {
		return fmt.Errorf("removing the certificates made so far: %w", err)
	}
	return keys.SyncDir(c.State)
}
