package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/pkcs11"
	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

type rootConfig struct {
	// TPM keeps the keys in a TPM 2.0: made there, and never outside of it.
	TPM *tpmConfig `yaml:"tpm"`

	// PKCS11 keeps the keys in an HSM.
	PKCS11 *pkcs11Config `yaml:"pkcs11"`

	// Software is keys in a file, for development: whoever copies the file has
	// the root. It says so wherever it is shown.
	Software *softwareConfig `yaml:"software"`
}

type softwareConfig struct {
	File string `yaml:"file"` // made by "brevetd keys init"; what the broker knows of its fleet lies beside it
}

type tpmConfig struct {
	// Device is a character device such as /dev/tpmrm0, or unix:PATH or
	// tcp:HOST:PORT for a TPM in software. Required.
	Device string `yaml:"device"`

	// State is the folder of what the TPM gave out encrypted: of no use without
	// the same TPM. Made by "brevetd keys init". Required.
	State string `yaml:"state"`

	// AuthFile holds the auth value of the keys, for those who keep it on
	// another disk than the state. Default: one is made, and kept in State.
	AuthFile string `yaml:"auth_file"`

	// PCRs are numbers of platform configuration registers (SHA-256 bank) that
	// must be as they were at "brevetd keys init", or the keys cannot be used:
	// the machine was booted with something else. Danger: an update of the
	// firmware is something else, too. Default: none.
	PCRs []int `yaml:"pcrs"`
}

type pkcs11Config struct {
	Module  string `yaml:"module"`   // the HSM's library, such as /usr/lib/softhsm/libsofthsm2.so
	Token   string `yaml:"token"`    // label of the token
	PINFile string `yaml:"pin_file"` // holds the user's PIN; mode 0600
	State   string `yaml:"state"`    // folder of the certificates, and of what the broker knows of its fleet

	// Helper is the program brevetd-pkcs11, in which the library runs. Default:
	// beside brevetd.
	Helper string `yaml:"helper"`

	// Env names environment variables that the library needs. It sees no others.
	Env []string `yaml:"env"`
}

func (c *config) validateRoot(p *place) {
	r, at := c.Root, strictyaml.Path{"root"}
	kinds := 0
	if r.Software != nil {
		kinds++
		p.need(at.With("software", "file"), r.Software.File, "the file of the key, such as root.pem")
	}
	if r.TPM != nil {
		kinds++
		p.need(at.With("tpm", "device"), r.TPM.Device, "the TPM, such as /dev/tpmrm0")
		p.need(at.With("tpm", "state"), r.TPM.State, "a folder for the keys' blobs")
		for i, pcr := range r.TPM.PCRs {
			if pcr < 0 || pcr > 23 || slices.Contains(r.TPM.PCRs[:i], pcr) {
				p.bad(at.With("tpm", "pcrs", i), "%d is not the number of a PCR, 0 to 23, each once", pcr)
			}
		}
	}
	if r.PKCS11 != nil {
		kinds++
		p.need(at.With("pkcs11", "module"), r.PKCS11.Module, "the HSM's library, by its absolute path")
		if m := r.PKCS11.Module; m != "" && !filepath.IsAbs(m) {
			p.bad(at.With("pkcs11", "module"), "%s is not an absolute path, and a library is not searched for", m)
		}
		p.need(at.With("pkcs11", "token"), r.PKCS11.Token, "the label of the token")
		p.need(at.With("pkcs11", "pin_file"), r.PKCS11.PINFile, "the file with the user's PIN")
		p.need(at.With("pkcs11", "state"), r.PKCS11.State, "a folder for the certificates")
	}
	if kinds != 1 {
		p.bad(at, "root needs exactly one of tpm, pkcs11 and software; software: {file: root.pem} is for development")
	}
}

// need reports a value that is missing.
func (p *place) need(path strictyaml.Path, value, what string) {
	if value == "" {
		p.bad(path, "%v is missing: %s", path[len(path)-1], what)
	}
}

func (c *config) tpm() tpm.Config {
	t := c.Root.TPM
	return tpm.Config{Device: t.Device, State: c.path(t.State), AuthFile: c.path(t.AuthFile), PCRs: t.PCRs}
}

func (c *config) pkcs11() pkcs11.Config {
	h := c.Root.PKCS11
	return pkcs11.Config{Module: h.Module, Token: h.Token, PINFile: c.path(h.PINFile), State: c.path(h.State), Helper: c.path(h.Helper), Env: h.Env}
}

// openRoot opens the configured root.
func (c *config) openRoot(ctx context.Context) (root keys.Root, err error) {
	switch r := c.Root; {
	case r.TPM != nil:
		root, err = tpm.Open(ctx, c.tpm())
	case r.PKCS11 != nil:
		root, err = pkcs11.Open(ctx, c.pkcs11())
	default:
		root, err = keys.OpenSoftware(c.path(r.Software.File))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint{fmt.Errorf("opening the root: %w", err), "make one with: brevetd keys init"}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the root: %w", err)
	}
	return root, nil
}

// createRoot makes the configured root, where there is none.
func (c *config) createRoot(ctx context.Context) (root keys.Root, err error) {
	now := time.Now()
	switch r := c.Root; {
	case r.TPM != nil:
		root, err = tpm.Create(ctx, c.tpm(), now)
	case r.PKCS11 != nil:
		root, err = pkcs11.Create(ctx, c.pkcs11(), now)
	default:
		root, err = keys.CreateSoftware(c.path(r.Software.File), now)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, hint{fmt.Errorf("there is a root already: %w", err), "everything the broker ever signed hangs on it; move it away yourself if you mean it"}
	}
	if err != nil {
		return nil, fmt.Errorf("making the root: %w", err)
	}
	if err := keys.InitRing(ctx, c.ringState(), root); err != nil {
		err = fmt.Errorf("the root was made, and cannot be used: %w", err)
		return nil, errors.Join(hint{err, "mend that, move the new root away, and run it again"}, root.Close())
	}
	return root, nil
}

// ringState is where the broker keeps what it knows of its fleet.
func (c *config) ringState() string {
	switch r := c.Root; {
	case r.TPM != nil:
		return filepath.Join(c.path(r.TPM.State), "ring")
	case r.PKCS11 != nil:
		return filepath.Join(c.path(r.PKCS11.State), "ring")
	default:
		return c.path(r.Software.File) + ".ring"
	}
}
