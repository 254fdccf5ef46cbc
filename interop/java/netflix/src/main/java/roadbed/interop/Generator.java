package roadbed.interop;

import com.netflix.appinfo.AmazonInfo;
import com.netflix.appinfo.AmazonInfo.MetaDataKey;
import com.netflix.appinfo.DataCenterInfo;
import com.netflix.appinfo.InstanceInfo;
import com.netflix.appinfo.InstanceInfo.ActionType;
import com.netflix.appinfo.InstanceInfo.InstanceStatus;
import com.netflix.appinfo.InstanceInfo.PortType;
import com.netflix.appinfo.LeaseInfo;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import java.util.function.Function;

/** Makes instances of every kind that can be registered. The n-th is always the same. */
final class Generator {
    private static final String[] APPS = {
        "SHOP", "catalog", "straße", "user-service", "a_b.c", "größe", "каталог", "目录", "with space", "a+b&c=d", "q?x#y", "p%41", "slash/ed", "x'y\"z", "emoji😀"
    };
    private static final String[] WORDS = {
        "a", "7", "true", "null", "{}", "[1]", "üñï", "日本語", "😀 two \uD83D\uDE80", "<b>&amp;</b>", "\"quoted\"", "it's", "back\\slash", "tab\there",
        "line\nbreak", "return\r\nline", " lead", "trail ", "  ", "\u2028\u2029", "]]>", "<!-- -->", "<?x?>", "%20+", "a=b;c", "\u00a0", "\ufeff", "\u0085",
        "${x}", "/path/to", "x".repeat(2000)
    };
    private static final String[] CONTROLS = {"\u0000", "\u0001x", "\u001f", "a\u0008b", "\u000c", "\u007f", "\ufffe", "\uffff"};
    private static final String[] KEYS = {
        "zone", "user_id", "__", "_", "_-", "_.0020", "a.b.c", "-dash", "1st", "$x", "a$b", "größe", "ключ", "键", "two words", "a/b", "a:b", "<x>", "x&y",
        "a=b", "'q'", "\"dq\"", "#hash", "@at", "class", "emoji😀", "UPPER", "upper", "xml", "XMLish", "name", "management.port"
    };

    private final Random dice;
    private final int n;
    private final boolean onlyJSON;

    private Generator(int n) {
        this.n = n;
        this.dice = new Random(n * 31L + 17);
        this.onlyJSON = onlyJSON(n);
    }

    /** Whether the n-th instance holds what XML cannot: control characters, and the empty name. */
    static boolean onlyJSON(int n) {
        return n % 10 == 9;
    }

    static InstanceInfo instance(int n) {
        return new Generator(n).make();
    }

    private InstanceInfo make() {
        InstanceInfo.Builder b = InstanceInfo.Builder.newBuilder((Function<String, String>) s -> s);
        String host = "host-" + n + ".example" + pick("", "", ".ü", "_x");
        String app = APPS[n % APPS.length];
        boolean amazon = dice.nextInt(3) == 0;
        switch (dice.nextInt(6)) {
            case 0 -> { } // it goes by its cloud's id or its host's name
            case 1 -> b.setInstanceId("i " + n + " %/+&?#;=:@" + pick("", "ü", "日本", "😀"));
            default -> b.setInstanceId(host + ":" + app + ":" + n);
        }
        b.setHostName(host).setAppName(app).setIPAddr(pick("10.0." + n / 256 + "." + n % 256, "fe80::" + Integer.toHexString(n), "::1"));
        if (dice.nextInt(10) == 0) {
            b.setSID(pick("na", "unknown", "sid-7", "s<i>d"));
        }
        b.setStatus(dice.nextInt(3) == 0 ? status() : InstanceStatus.UP);
        b.setOverriddenStatus(dice.nextInt(4) == 0 ? status() : InstanceStatus.UNKNOWN);
        b.setPort(pick(8080, 0, 1, 65535, 7001)).setSecurePort(pick(443, 8443, 0, 7002));
        b.enablePort(PortType.UNSECURE, dice.nextInt(4) > 0).enablePort(PortType.SECURE, dice.nextInt(4) == 0);
        b.setCountryId(pick(1, 0, 840));
        b.setDataCenterInfo(amazon ? amazon() : cloudless(dice.nextInt(8) == 0 ? DataCenterInfo.Name.Netflix : DataCenterInfo.Name.MyOwn));
        if (dice.nextInt(8) > 0) {
            b.setLeaseInfo(LeaseInfo.Builder.newBuilder()
                    .setRenewalIntervalInSecs(pick(30, 5, 10, 0, -3)).setDurationInSecs(pick(90, 600, 86_400, 0, -1))
                    .setRegistrationTimestamp(dice.nextInt(2) * 1_700_000_000_000L).setRenewalTimestamp(dice.nextInt(2) * 1_700_000_000_001L)
                    .setEvictionTimestamp(dice.nextInt(2) * 1_700_000_000_002L).setServiceUpTimestamp(dice.nextInt(2) * 1_700_000_000_003L)
                    .build());
        }
        Map<String, String> metadata = new HashMap<>();
        for (int k = dice.nextInt(4) == 0 ? 0 : dice.nextInt(12); k > 0; k--) {
            metadata.put(KEYS[dice.nextInt(KEYS.length)], value());
        }
        if (onlyJSON) {
            metadata.put("", value());
            metadata.put("k" + CONTROLS[dice.nextInt(CONTROLS.length)], CONTROLS[dice.nextInt(CONTROLS.length)]);
        }
        b.setMetadata(metadata);
        if (sometimes()) {
            b.setAppGroupNameForDeser(pick("group", "GROUP", "größe", "", "a b").toUpperCase(java.util.Locale.ROOT));
        }
        if (sometimes()) {
            b.setHomePageUrlForDeser(url(host, "/"));
        }
        if (sometimes()) {
            b.setStatusPageUrlForDeser(url(host, "/info?a=b&c=d"));
        }
        if (sometimes()) {
            b.setHealthCheckUrlsForDeser(sometimes() ? url(host, "/health") : null, sometimes() ? "https://" + host + "/h" : null);
        }
        if (sometimes()) {
            b.setVIPAddressDeser(pick("shop", "shop,web", "a:8080", "", "größe", "<v>"));
        }
        if (sometimes()) {
            b.setSecureVIPAddressDeser(pick("shop", "s1,s2,s3", ""));
        }
        if (sometimes()) {
            b.setASGName(pick("shop-v001", "shop-prod-v012", "", "größe&"));
        }
        if (sometimes()) {
            b.setIsCoordinatingDiscoveryServer(dice.nextBoolean());
        }
        b.setLastUpdatedTimestamp(1_700_000_000_000L + n).setLastDirtyTimestamp(1_700_000_000_000L + dice.nextInt());
        b.setActionType(pick(null, ActionType.ADDED, ActionType.MODIFIED, ActionType.DELETED));
        return b.build();
    }

    private AmazonInfo amazon() {
        AmazonInfo.Builder a = AmazonInfo.Builder.newBuilder();
        for (MetaDataKey key : MetaDataKey.values()) {
            if (key != MetaDataKey.instanceId && sometimes()) {
                a.addMetadata(key, sometimes() ? key.getName() + "-" + n : value());
            }
        }
        if (dice.nextInt(4) > 0) {
            a.addMetadata(MetaDataKey.instanceId, "i-" + Integer.toHexString(n));
        }
        return a.build();
    }

    private static DataCenterInfo cloudless(DataCenterInfo.Name name) {
        return () -> name;
    }

    private InstanceStatus status() {
        return InstanceStatus.values()[dice.nextInt(InstanceStatus.values().length)];
    }

    private String value() {
        String s = WORDS[dice.nextInt(WORDS.length)];
        return switch (dice.nextInt(6)) {
            case 0 -> "";
            case 1 -> s + WORDS[dice.nextInt(WORDS.length)];
            case 2 -> onlyJSON ? s + CONTROLS[dice.nextInt(CONTROLS.length)] : s;
            default -> s;
        };
    }

    private String url(String host, String path) {
        return pick("http://" + host + ":8080" + path, "", "http://[::1]:80" + path, path);
    }

    private boolean sometimes() {
        return dice.nextInt(3) > 0;
    }

    @SafeVarargs
    private <T> T pick(T... of) {
        return of[dice.nextInt(of.length)];
    }
}
