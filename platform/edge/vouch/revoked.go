package vouch

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// revoked is lists of certificates that their issuers have revoked. It never changes. spec: RFC 5280 §5
type revoked struct {
	from string             // the file or directory
	by   map[string][]*list // by the issuer's name, as certificates have it
}

// list is one of an issuer.
type list struct {
	*x509.RevocationList
	on map[string]time.Time // when a certificate was revoked, by its serial number

	signed sync.Map // by the public key of an issuer: whether that has signed it
}

// readRevoked reads lists.
func readRevoked(from string) (*revoked, error) {
	r := &revoked{from: from, by: map[string][]*list{}}
	files := []string{from}
	if st, err := os.Stat(from); err != nil {
		return nil, fmt.Errorf("read lists of revoked certificates: %w", err)
	} else if st.IsDir() {
		inside, err := os.ReadDir(from)
		if err != nil {
			return nil, fmt.Errorf("read lists of revoked certificates: %w", err)
		}
		files = nil
		for _, f := range inside {
			if ext := filepath.Ext(f.Name()); f.Name()[0] != '.' && (ext == ".crl" || ext == ".pem") {
				files = append(files, filepath.Join(from, f.Name()))
			}
		}
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read lists of revoked certificates: %w", err)
		}
		lists, err := parseLists(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		for _, l := range lists {
			r.by[string(l.RawIssuer)] = append(r.by[string(l.RawIssuer)], l)
		}
	}
	if len(r.by) == 0 {
		return nil, fmt.Errorf("there are no lists of revoked certificates in %s: put NAME.crl there, in PEM or DER", from)
	}
	return r, nil
}

// parseLists returns the lists of a file: one in DER, or those in PEM, and one at least.
func parseLists(text []byte) ([]*list, error) {
	var all []*list
	add := func(der []byte) error {
		rl, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("it is no list of revoked certificates: %w", err)
		}
		l := &list{RevocationList: rl, on: make(map[string]time.Time, len(rl.RevokedCertificateEntries))}
		if err := whole(rl.Extensions); err != nil {
			return err
		}
		for _, e := range rl.RevokedCertificateEntries {
			if err := whole(e.Extensions); err != nil {
				return err
			}
			l.on[string(e.SerialNumber.Bytes())] = e.RevocationTime
		}
		all = append(all, l)
		return nil
	}
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		err := add(text)
		return all, err
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			continue
		}
		if err := add(block.Bytes); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, errors.New("it has no list of revoked certificates in PEM (X509 CRL)")
	}
	return all, nil
}

// whole returns an error if an extension says that a list is other than it seems: what is critical must be understood, and none
// that is critical stands in a whole list of its own issuer. spec: RFC 5280 §5.2, §5.3
func whole(extensions []pkix.Extension) error {
	for _, e := range extensions {
		if e.Critical {
			return fmt.Errorf("it is a part of a list, the changes of one, or one on behalf of others (critical extension %s); give the issuer's own, whole", e.Id)
		}
	}
	return nil
}

// check returns nil if in one of the chains, each from a certificate up to one that is believed by itself, nothing was revoked.
func (r *revoked) check(chains [][]*x509.Certificate, now time.Time) error {
	var why []error
	for _, chain := range chains {
		err := r.chain(chain, now)
		if err == nil {
			return nil
		}
		why = append(why, err)
	}
	return errors.Join(why...)
}

func (r *revoked) chain(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain[:len(chain)-1] {
		issuer := chain[i+1]
		l := r.of(c, issuer)
		switch {
		case l == nil:
			return fmt.Errorf("its certificate, for %s, was issued by %s, of whom there is no list of revoked certificates in %s; put it there", named(c), always(c.Issuer.String()), r.from)
		case !l.NextUpdate.IsZero() && now.After(l.NextUpdate):
			return fmt.Errorf("the list of what %s revoked, in %s, ended on %s, and without a newer one nobody is believed whom that one vouches for", always(c.Issuer.String()), r.from, l.NextUpdate.UTC().Format(time.RFC3339))
		}
		if on, is := l.on[string(c.SerialNumber.Bytes())]; is {
			return fmt.Errorf("its certificate, for %s, was revoked by %s on %s", named(c), always(c.Issuer.String()), on.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// of returns the newest list of those who issued c that issuer has signed: there may be others of the same name.
func (r *revoked) of(c, issuer *x509.Certificate) (newest *list) {
	for _, l := range r.by[string(c.RawIssuer)] {
		if (newest == nil || l.ThisUpdate.After(newest.ThisUpdate)) && l.by(issuer) {
			newest = l
		}
	}
	return newest
}

// by reports whether issuer has signed the list. It is found out once: signatures take some 50 us.
func (l *list) by(issuer *x509.Certificate) bool {
	key := string(issuer.RawSubjectPublicKeyInfo) + string(issuer.RawSubject)
	if is, ok := l.signed.Load(key); ok {
		return is.(bool)
	}
	is := l.CheckSignatureFrom(issuer) == nil
	l.signed.Store(key, is)
	return is
}
