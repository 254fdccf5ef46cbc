package roadbed.interop;

import com.netflix.config.DynamicIntProperty;
import com.netflix.config.DynamicPropertyFactory;
import com.netflix.config.DynamicStringProperty;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Reads properties by Archaius 1, which polls a properties file twice a second. Argument: its URL. An order names a
 * property; a callback is set on it the first time.
 */
public final class Archaius1 {
    private static final Map<String, DynamicStringProperty> STRINGS = new ConcurrentHashMap<>();
    private static final Map<String, DynamicIntProperty> NUMBERS = new ConcurrentHashMap<>();
    private static final Map<String, AtomicInteger> CALLS = new ConcurrentHashMap<>();

    public static void main(String[] args) throws Exception {
        System.setProperty("archaius.configurationSource.additionalUrls", args[0]);
        System.setProperty("archaius.fixedDelayPollingScheduler.initialDelayMills", "0");
        System.setProperty("archaius.fixedDelayPollingScheduler.delayMills", "500");
        DynamicPropertyFactory all = DynamicPropertyFactory.getInstance();
        new Orders()
                .on("get", words -> List.of(STRINGS.computeIfAbsent(words.get(0), k -> all.getStringProperty(k, "absent",
                        () -> CALLS.computeIfAbsent(k, x -> new AtomicInteger()).incrementAndGet())).get()))
                .on("int", words -> List.of(String.valueOf(
                        NUMBERS.computeIfAbsent(words.get(0), k -> all.getIntProperty(k, -1)).get())))
                .on("called", words -> List.of(String.valueOf(CALLS.getOrDefault(words.get(0), new AtomicInteger()))))
                .on("stop", words -> List.of())
                .obey();
    }
}
