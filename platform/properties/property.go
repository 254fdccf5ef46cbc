package properties

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
)

// Bounds of a property, in bytes. Values of type gzip, packed by [config.Pack], may be longer: up to MaxPacked.
const (
	MaxKey    = 512
	MaxValue  = config.MaxValue
	MaxPacked = config.MaxPacked
)

// Mask stands for the value of a sensitive property wherever it is shown.
const Mask = "(sensitive)"

// Property is one record: the value of a key for a scope. Its Scope's fields are empty for any, one value, or a comma
// list of which one must fit, in any letter case; all of them must fit.
type Property struct {
	ID    string `json:"propertyId"` // of Key and Scope, see [ID]
	Key   string `json:"key"`
	Value string `json:"value"`
	Type  string `json:"type,omitempty"` // string when empty; see [Types]
	config.Scope

	Constraint  *Constraint `json:"constraint,omitempty"`
	Sensitive   bool        `json:"sensitive,omitempty"`
	Description string      `json:"description,omitempty"`
	Email       string      `json:"email,omitempty"`          // of its owner
	Source      string      `json:"sourceOfUpdate,omitempty"` // ui, api, rollout, import, ...
	Ticket      string      `json:"cmcTicket,omitempty"`

	// Given by the store.
	TS        int64  `json:"ts,omitempty"`        // of the write, Unix milliseconds; grows with each write
	Rev       uint64 `json:"rev,omitempty"`       // of the write, for If-Match
	UpdatedBy string `json:"updatedBy,omitempty"` // who wrote it
	Deleted   bool   `json:"deleted,omitempty"`   // in a history: the deletion
	RolloutID string `json:"rolloutId,omitempty"` // of the staged roll-out that wrote it, if one did
}

// Constraint is what a value must satisfy beyond its type. Zero fields ask for nothing.
type Constraint struct {
	Min     *float64 `json:"min,omitempty"` // of int, long, float; of a duration in milliseconds
	Max     *float64 `json:"max,omitempty"`
	Pattern string   `json:"pattern,omitempty"` // a regular expression (RE2) that the whole value must match
}

// Types returns the names of the types, of which "enum" is written with its values: "enum(a,b,c)".
func Types() []string {
	return []string{"string", "int", "long", "float", "bool", "duration", "list", "map", "json", "regex", "gzip", "enum"}
}

// ID returns the id of the one record that a key may have for a scope.
func ID(key string, scope config.Scope) string {
	s := canonical(scope)
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s", len(key), key) // keys are case-sensitive, scopes are not
	for i, f := range fields(s) {
		switch fieldNames[i] {
		case "ami", "countries": // younger than the ids of records that have neither
			if f == "" {
				continue
			}
			fmt.Fprintf(h, "%s:", fieldNames[i])
		}
		f = strings.ToLower(f)
		fmt.Fprintf(h, "%d:%s", len(f), f)
	}
	return "p_" + hex.EncodeToString(h.Sum(nil)[:16])
}

// fieldNames are the scope's fields, most specific first: the order of precedence [Platform].
var fieldNames = [...]string{"serverId", "asg", "ami", "cluster", "zone", "region", "stack", "appId", "env", "countries"}

// Where in fieldNames some fields are.
const (
	instanceField = 0
	groupField    = 1
	amiField      = 2
	zoneField     = 4
	regionField   = 5
	appField      = 7
	envField      = 8
	countryField  = 9
)

// fields returns the scope's fields in the order of fieldNames.
func fields(s config.Scope) [len(fieldNames)]string {
	return [...]string{s.Instance, s.Group, s.AMI, s.Cluster, s.Zone, s.Region, s.Stack, s.App, s.Env, s.Countries}
}

// Order says which fields of a scope are more specific than which others.
type Order int

// Platform layers as default < app < stack < region < zone < server group < instance. Netflix is the order compiled
// into Archaius 2's reader of persisted properties: there an app's property beats a zone's of no app.
const (
	Platform Order = iota
	Netflix
)

// orders are the indexes of fieldNames, most specific first, by [Order].
var orders = [...][len(fieldNames)]int{
	Platform: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
	Netflix:  {0, 1, 2, 3, 7, 8, 9, 6, 4, 5}, // serverId, asg, ami, cluster, appId, env, countries, stack, zone, region
}

// ranks are the bits of fieldNames in a rank, by [Order].
var ranks = func() (out [len(orders)][len(fieldNames)]uint) {
	for order, fields := range orders {
		for i, f := range fields {
			out[order][f] = uint(len(fields) - 1 - i)
		}
	}
	return out
}()

// ParseOrder reads "platform" or "netflix".
func ParseOrder(s string) (Order, error) {
	switch s {
	case "platform":
		return Platform, nil
	case "netflix":
		return Netflix, nil
	}
	return Platform, fmt.Errorf("%q is not an order of scopes; use platform or netflix", s)
}

// canonical returns s with every comma list trimmed, sorted and without repetitions.
func canonical(s config.Scope) config.Scope {
	for _, f := range []*string{&s.Instance, &s.Group, &s.AMI, &s.Cluster, &s.Zone, &s.Region, &s.Stack, &s.App, &s.Env, &s.Countries} {
		*f = strings.Join(values(*f), ",")
	}
	return s
}

// values takes a comma list apart.
func values(list string) []string {
	if list == "" {
		return nil
	}
	var out []string
	for v := range strings.SplitSeq(list, ",") {
		if v = strings.TrimSpace(v); v != "" {
			out = append(out, v)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return slices.CompactFunc(out, strings.EqualFold)
}

// derive fills in what a caller's server group tells: app, stack and cluster.
func derive(caller config.Scope) config.Scope {
	m, err := roadbed.ParseMoniker(caller.Group)
	if err != nil {
		return caller // a name outside the grammar tells nothing
	}
	for _, f := range []struct {
		field *string
		value string
	}{{&caller.App, m.App}, {&caller.Stack, m.Stack}, {&caller.Cluster, m.Cluster()}} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	return caller
}

// ScopeText returns the scope for people, from general to specific: "appId=api zone=zone-a"; empty for everybody.
func (p Property) ScopeText() string {
	var scope []string
	for i, v := range fields(p.Scope) {
		if v != "" {
			scope = append(scope, fieldNames[i]+"="+v)
		}
	}
	slices.Reverse(scope)
	return strings.Join(scope, " ")
}

// Mentions reports whether every word of text stands in p, in any letter case: in its key, value, type, scope,
// description, owner, ticket or writer. A scope is found by the names of its fields and by those that people use:
// "appId=api" and "app=api". The value of a sensitive property is not looked at, lest a search find it out.
func (p Property) Mentions(text string) bool {
	scope := p.ScopeText()
	shown := strings.ToLower(strings.Join([]string{p.Key, p.mask().Value, p.Type, scope, forPeople.Replace(scope), p.Description, p.Email, p.Ticket, p.UpdatedBy}, "\n"))
	for _, word := range strings.Fields(strings.ToLower(text)) {
		if !strings.Contains(shown, word) {
			return false
		}
	}
	return true
}

// forPeople gives the fields of a scope the names they have on screens.
var forPeople = strings.NewReplacer("appId=", "app=", "asg=", "group=", "serverId=", "instance=")

// SameScope reports whether p and q are for the same callers, as [ID] sees it.
func (p Property) SameScope(q Property) bool { return ID("", p.Scope) == ID("", q.Scope) }

// Time returns when p was written.
func (p Property) Time() time.Time { return time.UnixMilli(p.TS) }

func (p Property) name() string {
	if scope := p.ScopeText(); scope != "" {
		return strconv.Quote(p.Key) + " for " + scope
	}
	return strconv.Quote(p.Key)
}

// mask returns p without the value nobody may see.
func (p Property) mask() Property {
	if p.Sensitive && !p.Deleted {
		p.Value = Mask
	}
	return p
}

func masked(ps []Property) []Property {
	out := make([]Property, len(ps))
	for i, p := range ps {
		out[i] = p.mask()
	}
	return out
}

// audit is p for the ledger, which gets a long value's length and hash alone: its history has the value.
func (p Property) audit() json.RawMessage {
	p = p.mask()
	if len(p.Value) > MaxValue {
		p.Value = fmt.Sprintf("(%d bytes, SHA-256 %x)", len(p.Value), sha256.Sum256([]byte(p.Value)))
	}
	b, err := json.Marshal(p)
	if err != nil { // strings and numbers always encode
		panic(err)
	}
	return b
}

// confirmation names exactly these records in these revisions.
func confirmation(ps []Property) string {
	h := sha256.New()
	for _, p := range ps {
		fmt.Fprintf(h, "%s@%d;", p.ID, p.Rev)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// check returns the first rule that p breaks.
func (p Property) check() error {
	switch {
	case p.Key == "":
		return invalid("the key is empty")
	case len(p.Key) > MaxKey:
		return invalid("the key has %d bytes; %d are allowed", len(p.Key), MaxKey)
	case strings.TrimSpace(p.Key) != p.Key:
		return invalid("key %q begins or ends with white space", p.Key)
	case !utf8.ValidString(p.Key) || strings.ContainsFunc(p.Key, func(r rune) bool { return !unicode.IsPrint(r) }):
		return invalid("key %q has characters that cannot be printed", p.Key)
	case p.Type == "gzip" && len(p.Value) > MaxPacked:
		return invalid("the value has %d bytes packed; %d are allowed", len(p.Value), MaxPacked)
	case p.Type != "gzip" && len(p.Value) > MaxValue:
		return invalid("the value has %d bytes; %d are allowed", len(p.Value), MaxValue)
	case !utf8.ValidString(p.Value):
		return invalid("the value is not UTF-8")
	case p.Sensitive && p.Value == Mask:
		return invalid("%q is the mask of a sensitive value, not the value; give the value itself", Mask)
	}
	for i, f := range fields(p.Scope) {
		if len(f) > 4096 || !utf8.ValidString(f) || strings.ContainsFunc(f, unicode.IsControl) {
			return invalid("scope %s is too long or holds control characters", fieldNames[i])
		}
	}
	for what, f := range map[string]string{"description": p.Description, "email": p.Email, "sourceOfUpdate": p.Source, "cmcTicket": p.Ticket} {
		if len(f) > 4096 || !utf8.ValidString(f) {
			return invalid("%s is longer than 4096 bytes or not UTF-8", what)
		}
	}
	n, err := typed(p.Type, p.Value)
	if err != nil {
		return err
	}
	return p.Constraint.check(p.Type, p.Value, n)
}

// typed checks value against a type. n is the value as a number, where the type is one.
func typed(typ, value string) (n *float64, err error) {
	text := strings.TrimSpace(value)
	kind, args, isEnum := strings.Cut(typ, "(")
	switch {
	case kind == "enum" && isEnum && strings.HasSuffix(args, ")"):
		allowed := strings.FieldsFunc(strings.TrimSuffix(args, ")"), func(r rune) bool { return r == ',' || r == '|' })
		for i := range allowed {
			allowed[i] = strings.TrimSpace(allowed[i])
		}
		if !slices.Contains(allowed, value) {
			return nil, invalid("%q is not one of %s", value, strings.Join(allowed, ", "))
		}
		return nil, nil
	case isEnum || kind == "enum":
		return nil, invalid("type %q is not one of %s; an enum is written enum(a,b,c)", typ, strings.Join(Types(), ", "))
	}
	var f float64
	switch typ {
	case "", "string", "list":
		return nil, nil
	case "int", "long":
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, invalid("%q is not a whole number, as type %s asks", value, typ)
		}
		f = float64(i)
	case "float":
		if f, err = strconv.ParseFloat(text, 64); err != nil {
			return nil, invalid("%q is not a number, as type float asks", value)
		}
	case "bool":
		if _, err := config.ParseBool(value); err != nil {
			return nil, invalid("%v, as type bool asks", err)
		}
		return nil, nil
	case "duration":
		d, err := config.ParseDuration(value)
		if err != nil {
			return nil, invalid("%v", err)
		}
		f = float64(d) / 1e6
	case "map":
		if _, err := config.ParseMap(text); err != nil {
			return nil, invalid("%v, as type map asks", err)
		}
		return nil, nil
	case "json":
		if !json.Valid([]byte(value)) {
			return nil, invalid("the value is not JSON, as its type asks")
		}
		return nil, nil
	case "gzip":
		if _, err := config.Unpack(value); err != nil {
			return nil, invalid("%v, as type gzip asks", err)
		}
		return nil, nil
	case "regex":
		if _, err := regexp.Compile(value); err != nil {
			return nil, invalid("the value is not a regular expression: %v", err)
		}
		return nil, nil
	default:
		return nil, invalid("type %q is not one of %s", typ, strings.Join(Types(), ", "))
	}
	return &f, nil
}

// check returns the first part of the constraint that the value breaks. n is the value as a number, if it is one.
func (c *Constraint) check(typ, value string, n *float64) error {
	if c == nil {
		return nil
	}
	if (c.Min != nil || c.Max != nil) && n == nil {
		return invalid("min and max need a type int, long, float or duration, not %q", typ)
	}
	// Written so that NaN breaks every bound.
	if c.Min != nil && !(*n >= *c.Min) {
		return invalid("%q is less than the least allowed, %v", value, *c.Min)
	}
	if c.Max != nil && !(*n <= *c.Max) {
		return invalid("%q is more than the most allowed, %v", value, *c.Max)
	}
	if c.Pattern != "" {
		re, err := regexp.Compile(`^(?:` + c.Pattern + `)$`)
		if err != nil {
			return invalid("the constraint's pattern is not a regular expression: %v", err)
		}
		if !re.MatchString(value) {
			return invalid("%q does not match %s", value, c.Pattern)
		}
	}
	return nil
}
