package roadbed.interop;

import com.netflix.archaius.DefaultPropertyFactory;
import com.netflix.archaius.api.Config;
import com.netflix.archaius.api.Property;
import com.netflix.archaius.config.PollingDynamicConfig;
import com.netflix.archaius.config.polling.FixedPollingStrategy;
import com.netflix.archaius.persisted2.DefaultPersisted2ClientConfig;
import com.netflix.archaius.persisted2.Persisted2ConfigProvider;
import com.netflix.archaius.readers.URLConfigReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Reads properties by Archaius 2: persisted properties, and a properties file. Arguments: the URL of the former, that
 * of the latter, and its scopes, each NAME=VALUE. It polls both each second.
 */
public final class Archaius2 {
    private static final Map<String, AtomicInteger> CALLS = new ConcurrentHashMap<>();

    public static void main(String[] args) throws Exception {
        String url = args[0];
        Persisted2ConfigProvider provider = provider(url, List.of(args).subList(2, args.length));
        Config persisted = provider.get();
        PollingDynamicConfig file = new PollingDynamicConfig(new URLConfigReader(args[1]), new FixedPollingStrategy(1, TimeUnit.SECONDS));
        DefaultPropertyFactory properties = DefaultPropertyFactory.from(persisted);
        Map<String, Property<Integer>> numbers = new ConcurrentHashMap<>();
        new Orders()
                .on("get", words -> List.of(persisted.getString(words.get(0), "absent")))
                .on("file", words -> List.of(file.getString(words.get(0), "absent")))
                .on("int", words -> List.of(String.valueOf(numbers.computeIfAbsent(words.get(0), k -> {
                    Property<Integer> p = properties.get(k, Integer.class).orElse(-1);
                    p.subscribe(v -> CALLS.computeIfAbsent(k, x -> new AtomicInteger()).incrementAndGet());
                    return p;
                }).get())))
                .on("called", words -> List.of(String.valueOf(CALLS.getOrDefault(words.get(0), new AtomicInteger()))))
                .on("resolve", words -> {
                    Persisted2ConfigProvider other = provider(url, words);
                    try {
                        Config all = other.get();
                        List<String> found = new ArrayList<>();
                        all.forEachProperty((k, v) -> found.add(k + "=" + v));
                        found.sort(null);
                        return found;
                    } finally {
                        other.shutdown();
                    }
                })
                .on("stop", words -> List.of())
                .obey();
    }

    /** A reader of its own with scopes NAME=VALUE. It asks for records of these and of none. */
    private static Persisted2ConfigProvider provider(String url, List<String> scopes) throws Exception {
        DefaultPersisted2ClientConfig c = new DefaultPersisted2ClientConfig()
                .withServiceUrl(url).withRefreshRate(1).withSkipPropsWithExtraScopes(false)
                .withPrioritizedScopes("serverId", "asg", "ami", "cluster", "appId", "env", "countries", "stack", "zone", "region");
        for (String s : scopes) {
            int eq = s.indexOf('=');
            c.withScope(s.substring(0, eq), s.substring(eq + 1));
            c.withQueryScope(s.substring(0, eq), s.substring(eq + 1), "");
        }
        return new Persisted2ConfigProvider(() -> c, Optional.empty());
    }
}
